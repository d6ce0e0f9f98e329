// Attention at decode beside the machine's read bandwidth, and at prefill beside its
// multiply-adds; MLX's own operation beside both. OPTIQ_SIMD chooses the target.
// attention_bench [LABEL] writes LABEL (a commit) in the last column.
#include "optiq/kernels/attention/attention.h"

#include "mlx/fast.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/kernels/bench.h"
#include "optiq/kernels/testing.h"

namespace optiq::kernels {
namespace {

constexpr int kHeads = 16, kKvHeads = 8, kDim = 128;

struct Limits {
  double bytes, operations;
};

// `layers` caches of `keys` tokens, so that together they are larger than any cache.
struct Problem {
  Problem(int tokens, int keys, FloatType type)
      : tokens(tokens), keys(keys), type(type) {
    const std::size_t values = static_cast<std::size_t>(kKvHeads * kDim) * keys;
    bytes = 2.0 * static_cast<double>(values) * size_of(type);
    const int layers = tokens > 8 ? 1 : static_cast<int>(300e6 / bytes) + 1;
    q = testing::random_floats(static_cast<std::size_t>(tokens) * kHeads * kDim, 1);
    y.resize(q.size());
    const auto random = testing::random_floats(65536, 2);
    for (int i = 0; i < 2 * layers; ++i) {
      auto& cache = caches.emplace_back(values * size_of(type));
      for (std::size_t j = 0; j < values; ++j) {
        const float x = random[j % 65536];
        if (type == FloatType::kF32)
          reinterpret_cast<float*>(cache.data())[j] = x;
        else
          reinterpret_cast<std::uint16_t*>(cache.data())[j] = float_to_f16(x);
      }
    }
  }

  void run() {
    const std::int64_t head = static_cast<std::int64_t>(keys) * kDim;
    const AttentionSegment segment{tokens, keys - tokens,
                                   KvView{caches[next].data(), caches[next + 1].data(),
                                          type, head, kDim, head, kDim}};
    next = (next + 2) % caches.size();
    AttentionArgs args{};
    args.q = q.data();
    args.q_row_stride = kHeads * kDim;
    args.q_head_stride = kDim;
    args.y = y.data();
    args.segments = &segment;
    args.n_segments = 1;
    args.n_heads = kHeads;
    args.n_kv_heads = kKvHeads;
    args.head_dim = kDim;
    args.scale = 0.088388f;
    args.causal = true;
    attention(args);
  }

  // Of the visible keys: a multiply and an add for q k and for p v.
  double operations() const {
    return 4.0 * kDim * kHeads * tokens * (keys - (tokens - 1) / 2.0);
  }

  int tokens, keys;
  FloatType type;
  double bytes;
  std::vector<float> q, y;
  std::vector<std::vector<std::uint8_t>> caches;
  std::size_t next = 0;
};

void measure_ours(int tokens, int keys, FloatType type, const Limits& limits,
                  const char* label) {
  Problem problem(tokens, keys, type);
  const std::string shape = fmt::format("T={} S={} {}", tokens, keys,
                                        type == FloatType::kF32 ? "f32" : "f16");
  const auto times = bench::measure([&] { problem.run(); });
  if (tokens <= 8)
    bench::print_line("attention", shape, times, problem.bytes, "GB/s", limits.bytes,
                      label);
  else
    bench::print_line("attention", shape, times, problem.operations(), "GFLOP/s",
                      limits.operations, label);
}

void measure_mlx(int tokens, int keys, const Limits& limits, const char* label) {
  const Problem problem(tokens, keys, FloatType::kF32);
  const auto array = [](const void* data, const mlx::core::Shape& shape) {
    return mlx::core::array(static_cast<const float*>(data), shape);
  };
  const auto q = array(problem.q.data(), {1, kHeads, tokens, kDim});
  const auto k = array(problem.caches[0].data(), {1, kKvHeads, keys, kDim});
  const auto v = array(problem.caches[1].data(), {1, kKvHeads, keys, kDim});
  const auto times = bench::measure(
      [&] {
        mlx::core::eval(mlx::core::fast::scaled_dot_product_attention(
            q, k, v, 0.088388f, tokens > 1 ? "causal" : ""));
      },
      5);
  bench::print_line("mlx_attention", fmt::format("T={} S={} f32", tokens, keys), times,
                    tokens <= 8 ? problem.bytes : problem.operations(),
                    tokens <= 8 ? "GB/s" : "GFLOP/s",
                    tokens <= 8 ? limits.bytes : limits.operations, label);
}

void run(const char* label) {
  const Limits limits{bench::read_bandwidth(), bench::multiply_add_peak()};
  fmt::print("# {} threads, reads {:.1f} GB/s, {:.0f} GFLOP/s in multiply-adds\n",
             thread_count(), limits.bytes * 1e-9, limits.operations * 1e-9);
  bench::print_header();
  for (FloatType type : {FloatType::kF32, FloatType::kF16}) {
    for (int keys : {512, 4096, 16384}) measure_ours(1, keys, type, limits, label);
    measure_ours(4, 4096, type, limits, label);
    measure_ours(512, 512, type, limits, label);
    measure_ours(512, 4096, type, limits, label);
  }
  measure_mlx(1, 4096, limits, label);
  measure_mlx(512, 512, limits, label);
  fmt::print("# reads {:.1f} GB/s at the end\n", bench::read_bandwidth() * 1e-9);
}

}  // namespace
}  // namespace optiq::kernels

int main(int argc, char** argv) { optiq::kernels::run(argc > 1 ? argv[1] : "-"); }
