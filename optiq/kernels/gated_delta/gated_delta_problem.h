// Random inputs of the gated delta rule, for its test and its benchmark.
#pragma once
#include <cstddef>
#include <random>
#include <vector>

#include "optiq/kernels/gated_delta/gated_delta.h"
#include "optiq/kernels/guarded.h"

namespace optiq::kernels {

using GatedDeltaKernel = void (*)(const GatedDeltaArgs&);

/// Owns what GatedDeltaArgs points to, in guarded memory. Rows of qkv, a and b lie
/// apart by a few values more than they hold; the last one ends where the memory does.
struct GatedDeltaProblem {
  static constexpr int kGap = 3;

  int Hk, Hv, Dk, Dv;
  std::vector<int> tokens;  // of each segment
  int T = 0;
  GatedDeltaForm form = GatedDeltaForm::kByLength;
  testing::GuardedFloats qkv, a, b, a_log, dt_bias, states, o;

  GatedDeltaProblem(int n_key_heads, int n_value_heads, int key_dim, int value_dim,
                    std::vector<int> segment_tokens, unsigned seed)
      : Hk(n_key_heads),
        Hv(n_value_heads),
        Dk(key_dim),
        Dv(value_dim),
        tokens(std::move(segment_tokens)) {
    for (int n : tokens) T += n;
    std::mt19937 generator(seed);
    const auto fill = [&](testing::GuardedFloats& x, std::size_t n, float mean,
                          float sd) {
      std::normal_distribution<float> normal(mean, sd);
      x.resize(n);
      for (float& value : x) value = normal(generator);
    };
    const auto without_last_gap = [](testing::GuardedFloats& x) {
      if (!x.empty()) x = testing::GuardedFloats(x.begin(), x.end() - kGap);
    };
    const auto rows = static_cast<std::size_t>(T), heads = static_cast<std::size_t>(Hv);
    fill(qkv, rows * static_cast<std::size_t>(qkv_stride()), 0, 1);
    fill(a, rows * (heads + kGap), 0, 1);
    fill(b, rows * (heads + kGap), 0, 1);
    for (auto* x : {&qkv, &a, &b}) without_last_gap(*x);
    fill(a_log, heads, -1, 1);
    fill(dt_bias, heads, -3, 1);  // decays of about 0.9 to 1, as trained ones have
    fill(states, tokens.size() * state_size(), 0, 0.3f);
    o.resize(rows * heads * static_cast<std::size_t>(Dv));
  }

  int qkv_stride() const { return 2 * Hk * Dk + Hv * Dv + kGap; }
  std::size_t state_size() const {
    return static_cast<std::size_t>(Hv) * static_cast<std::size_t>(Dk) *
           static_cast<std::size_t>(Dv);
  }
  float* query(int t, int head) { return row(t) + head * Dk; }
  float* key(int t, int head) { return row(t) + (Hk + head) * Dk; }
  float* value(int t, int head) { return row(t) + 2 * Hk * Dk + head * Dv; }

  /// All segments, states in place.
  void run() { run_into(states); }
  void run_with(GatedDeltaKernel kernel) { run_into(states, kernel); }

  /// All segments; the new states go to `out`.
  void run_into(testing::GuardedFloats& out, GatedDeltaKernel kernel = gated_delta) {
    std::vector<GatedDeltaSegment> segments;
    std::int64_t begin = 0;
    for (std::size_t i = 0; i < tokens.size(); begin += tokens[i++])
      segments.push_back({begin, tokens[i], states.data() + i * state_size(),
                          out.data() + i * state_size()});
    call(segments, kernel);
  }

  /// One segment alone.
  void run_segment(int segment) {
    const auto index = static_cast<std::size_t>(segment);
    std::int64_t begin = 0;
    for (std::size_t i = 0; i < index; ++i) begin += tokens[i];
    float* state = states.data() + index * state_size();
    call({{begin, tokens[index], state, state}});
  }

  /// Some rows, as if they were the whole call, on the first state.
  void run_rows(int begin, int n, GatedDeltaKernel kernel = gated_delta) {
    call({{begin, n, states.data(), states.data()}}, kernel);
  }

 private:
  float* row(int t) { return qkv.data() + static_cast<std::int64_t>(t) * qkv_stride(); }

  void call(const std::vector<GatedDeltaSegment>& segments,
            GatedDeltaKernel kernel = gated_delta) {
    GatedDeltaArgs args{};
    args.qkv = qkv.data();
    args.a = a.data();
    args.b = b.data();
    args.qkv_stride = qkv_stride();
    args.a_stride = args.b_stride = Hv + kGap;
    args.a_log = a_log.data();
    args.dt_bias = dt_bias.data();
    args.o = o.data();
    args.segments = segments.data();
    args.n_segments = static_cast<int>(segments.size());
    args.n_key_heads = Hk;
    args.n_value_heads = Hv;
    args.key_dim = Dk;
    args.value_dim = Dv;
    args.form = form;
    kernel(args);
  }
};

}  // namespace optiq::kernels
