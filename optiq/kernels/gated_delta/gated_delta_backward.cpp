#include "optiq/kernels/gated_delta/gated_delta_backward.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "optiq/base/parallel.h"
#include "optiq/kernels/dispatch.h"

namespace optiq::kernels {

OPTIQ_DECLARE_SIMD(void gated_delta_backward_item(const GatedDeltaBackwardArgs& args,
                                                  const GatedDeltaBackwardItem& item,
                                                  float* scratch))

namespace {

// dx of y = scale x / sqrt(|x|^2 + 1e-6), added up over the heads that read x.
void through_length(const float* x, const float* const* dy, int n_heads,
                    std::int64_t offset, int dim, double scale, float* dx) {
  double squares = 1e-6, along = 0;
  for (int i = 0; i < dim; ++i) squares += static_cast<double>(x[i]) * x[i];
  for (int i = 0; i < dim; ++i) {
    float sum = 0;
    for (int h = 0; h < n_heads; ++h) sum += dy[h][offset + i];
    dx[i] = sum;
    along += static_cast<double>(sum) * x[i];
  }
  const double inverse = scale / std::sqrt(squares);
  for (int i = 0; i < dim; ++i)
    dx[i] = static_cast<float>(inverse * (dx[i] - x[i] * along / squares));
}

}  // namespace

std::size_t gated_delta_backward_scratch(const GatedDeltaArgs& args, int tokens) {
  const auto n = static_cast<std::size_t>(tokens);
  const std::size_t block = static_cast<std::size_t>(args.key_dim) * kGatedDeltaColumns;
  const std::size_t kept = n / kGatedDeltaKept + 1;
  // Keys and queries, decays and betas with their gradients; states kept, of one run of
  // tokens, and the gradient; u and v - r of that run; a cache line to align.
  return n * (2 * static_cast<std::size_t>(args.key_dim) + 4) +
         (kept + kGatedDeltaKept + 2) * block +
         2 * std::size_t{kGatedDeltaKept} * kGatedDeltaColumns + 64;
}

void gated_delta_backward(const GatedDeltaBackwardArgs& args) {
  const auto run = OPTIQ_CHOOSE(gated_delta_backward_item);
  const GatedDeltaArgs& f = args.forward;
  const int Hv = f.n_value_heads, Hk = f.n_key_heads, Dk = f.key_dim;
  // By q and k, for each value head that reads them.
  std::vector<std::vector<float>> d_qk(static_cast<std::size_t>(f.n_segments) *
                                       static_cast<std::size_t>(Hv));
  parallel_for(d_qk.size(), [&](std::size_t i) {
    const GatedDeltaSegment* segment = f.segments + i / static_cast<std::size_t>(Hv);
    const auto tokens = static_cast<std::size_t>(segment->tokens);
    d_qk[i].assign(tokens * 2 * static_cast<std::size_t>(Dk), 0.0f);
    thread_local std::vector<float> scratch;
    scratch.resize(
        std::max(scratch.size(), gated_delta_backward_scratch(f, segment->tokens)));
    run(args,
        {segment,
         args.d_states ? args.d_states[i / static_cast<std::size_t>(Hv)] : nullptr,
         static_cast<int>(i % static_cast<std::size_t>(Hv)), d_qk[i].data()},
        scratch.data());
  });
  const int group = Hv / Hk;
  const std::int64_t width = 2 * std::int64_t{Hk} * Dk + std::int64_t{Hv} * f.value_dim;
  for (int s = 0; s < f.n_segments; ++s) {
    const GatedDeltaSegment& segment = f.segments[s];
    parallel_ranges(
        static_cast<std::size_t>(segment.tokens), 16,
        [&](std::size_t begin, std::size_t end) {
          std::vector<const float*> heads(static_cast<std::size_t>(group));
          for (std::size_t t = begin; t < end; ++t) {
            const std::int64_t row = segment.row + static_cast<std::int64_t>(t);
            const float* x = f.qkv + row * f.qkv_stride;
            float* dx = args.d_qkv + row * width;
            for (int h = 0; h < Hk; ++h) {
              for (int g = 0; g < group; ++g)
                heads[static_cast<std::size_t>(g)] =
                    d_qk[static_cast<std::size_t>(s * Hv + h * group + g)].data();
              const std::int64_t at = static_cast<std::int64_t>(t) * 2 * Dk;
              through_length(x + h * Dk, heads.data(), group, at, Dk,
                             1 / std::sqrt(static_cast<double>(Dk)), dx + h * Dk);
              through_length(x + (Hk + h) * Dk, heads.data(), group, at + Dk, Dk, 1,
                             dx + (Hk + h) * Dk);
            }
          }
        });
  }
}

}  // namespace optiq::kernels
