// The gated delta rule by steps and by chunks, and the convolution before it, at the
// shapes of two models; plain MLX operations beside them.
//
// One token runs through as many layers as the model has, so that states come from
// where they come from in a decode. gated_delta_bench [LABEL] writes LABEL in the last
// column.
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/base/parallel.h"
#include "optiq/base/simd_target.h"
#include "optiq/kernels/causal_conv/causal_conv.h"
#include "optiq/kernels/fused_primitive.h"
#include "optiq/kernels/gated_delta/gated_delta_primitive.h"
#include "optiq/kernels/gated_delta/gated_delta_problem.h"

namespace optiq::kernels {
namespace {

struct Shape {
  const char* name;
  int Hk, Hv, layers;
};
constexpr int kDim = 128;

const char* label = "-";

double now_us() {
  using Microseconds = std::chrono::duration<double, std::micro>;
  if (thread_count() == 1)
    return 1e6 * static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
  return Microseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Prints one line for `run`, which computes `tokens` tokens of `layers` layers with so
// many operations and bytes a layer.
void measure(const char* kernel, const Shape& shape, int tokens,
             const std::string& variant, double operations, double bytes,
             const std::function<void()>& run) {
  std::vector<double> times;
  for (int i = -3; i < 21; ++i) {
    const double begin = now_us();
    run();
    if (i >= 0) times.push_back((now_us() - begin) / shape.layers);
  }
  std::sort(times.begin(), times.end());
  const double median = times[times.size() / 2];
  fmt::print("{},{} T={},{},{:.1f},{:.1f},{:.1f},{:.1f},{:.1f},{:.0f},{}\n", kernel,
             shape.name, tokens, variant, median, times[2], times[18],
             bytes / median * 1e-3, operations / median * 1e-3, tokens / median * 1e6,
             label);
  std::fflush(stdout);
}

void check_against_reference(const GatedDeltaProblem& problem) {
  GatedDeltaProblem run = problem, expected = problem;
  run.run();
  const SimdTarget target = simd_target();
  force_simd_target(SimdTarget::kScalar);
  expected.run();
  force_simd_target(target);
  for (std::size_t i = 0; i < run.o.size(); ++i)
    if (!(std::abs(run.o[i] - expected.o[i]) < 1e-4f)) {
      fmt::print(stderr, "gated_delta: wrong value {} for {}\n", run.o[i],
                 expected.o[i]);
      std::exit(1);
    }
}

void measure_delta(const Shape& shape, int tokens) {
  std::vector<GatedDeltaProblem> layers;
  for (int i = 0; i < shape.layers; ++i)
    layers.emplace_back(shape.Hk, shape.Hv, kDim, kDim, std::vector<int>{tokens}, 1);
  check_against_reference(layers[0]);
  const double state = static_cast<double>(layers[0].state_size());
  const double operations = 7 * state * tokens;
  const double bytes = 8 * state + 4.0 * tokens * layers[0].qkv_stride();
  for (SimdTarget target : supported_simd_targets()) {
    if (target == SimdTarget::kScalar && tokens > 1) continue;
    force_simd_target(target);
    for (auto [form, suffix] : {std::pair{GatedDeltaForm::kStep, "step"},
                                std::pair{GatedDeltaForm::kChunk, "chunk"}}) {
      if (form == GatedDeltaForm::kChunk && target == SimdTarget::kScalar) continue;
      for (GatedDeltaProblem& layer : layers) layer.form = form;
      measure("gated_delta", shape, tokens, fmt::format("{} {}", name(target), suffix),
              operations, bytes, [&] {
                for (GatedDeltaProblem& layer : layers) layer.run();
              });
    }
  }
  force_simd_target(std::nullopt);

  // Plain MLX: the fallback, which works in chunks of 64.
  const int width = 2 * shape.Hk * kDim + shape.Hv * kDim;
  const Segment segment{tokens, 0};
  const mx::array heads = mx::zeros({shape.Hv}), ab = mx::zeros({tokens, shape.Hv});
  const std::vector<mx::array> in{
      mx::ones({tokens, width}),        ab, ab, heads, heads,
      mx::zeros({shape.Hv, kDim, kDim})};
  const mx::array o = gated_delta(in[0], ab, ab, heads, heads, {&segment, 1}, {in[5]},
                                  {shape.Hk, shape.Hv, kDim, kDim})
                          .first;
  const Fallback plain = dynamic_cast<FusedPrimitive&>(o.primitive()).fallback();
  const Shape one{shape.name, shape.Hk, shape.Hv, 1};
  measure("gated_delta", one, tokens, "plain MLX", operations, bytes,
          [&] { mx::eval(plain(in)); });
}

void measure_conv(const Shape& shape, int tokens) {
  constexpr int kKernel = 4;
  const int channels = (2 * shape.Hk + shape.Hv) * kDim;
  const auto count = [&](int n) {
    return static_cast<std::size_t>(n) * static_cast<std::size_t>(channels);
  };
  const std::vector<float> x(count(tokens), 0.5f), weight(count(kKernel), 0.25f);
  std::vector<float> y(count(tokens)), tail(count(kKernel - 1));
  const CausalConvSegment segment{0, tokens, tail.data(), tail.data()};
  const CausalConvArgs args{x.data(), channels, weight.data(), y.data(),
                            &segment, 1,        channels,      kKernel};
  for (SimdTarget target : supported_simd_targets()) {
    force_simd_target(target);
    measure("causal_conv_silu", shape, tokens, name(target),
            2.0 * kKernel * channels * tokens,
            4.0 * channels * (2 * tokens + kKernel + 2 * (kKernel - 1)), [&] {
              for (int i = 0; i < shape.layers; ++i) causal_conv_silu(args);
            });
  }
  force_simd_target(std::nullopt);
}

}  // namespace
}  // namespace optiq::kernels

int main(int argc, char** argv) {
  using namespace optiq::kernels;
  mx::set_default_device(mx::Device::cpu);
  if (argc > 1) label = argv[1];
  fmt::print("# {} threads\n", optiq::thread_count());
  fmt::print("name,shape,variant,median_us,p10,p90,GB/s,GFLOP/s,tokens/s,commit\n");
  for (const auto& [name, Hk, Hv, layers] :
       {Shape{"Hk=2 Hv=4", 2, 4, 6}, {"Hk=16 Hv=16", 16, 16, 18}})
    for (int tokens : {1, 8, 16, 512}) {
      const Shape shape{name, Hk, Hv, tokens < 512 ? layers : 1};
      measure_conv(shape, tokens);
      measure_delta(shape, tokens);
    }
}
