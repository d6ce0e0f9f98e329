// The device's gradient of the gated delta rule on cuda_model.h.
#include <gtest/gtest.h>

#include "optiq/kernels/cuda_model_launch.h"
#include "optiq/kernels/gated_delta/gated_delta_backward_cuda.cu"
#include "optiq/kernels/gated_delta/gated_delta_backward_problem.h"
#include "optiq/kernels/testing.h"

namespace optiq::kernels {
namespace {

using namespace optiq::testing;

// Dims that leave lanes without work, key heads that are shared, segments of no token,
// whole runs and parts, with gradients by their last states and without.
TEST(GatedDeltaBackwardOnModel, IsTheDefinition) {
  for (const auto& [Hk, Hv, Dk, Dv, tokens] : {std::tuple{1, 1, 8, 8, std::vector{1}},
                                               {1, 2, 16, 40, std::vector{5, 0, 18}},
                                               {1, 1, 128, 128, std::vector{19}}}) {
    GatedDeltaProblem p(Hk, Hv, Dk, Dv, tokens, 1);
    const auto d_o = random_floats(p.o.size(), 2);
    std::vector<std::vector<float>> values;
    std::vector<const float*> d_states;
    for (std::size_t i = 0; i < tokens.size(); ++i)
      values.push_back(random_floats(p.state_size(), 3 + std::uint32_t(i)));
    for (const auto& state : values) d_states.push_back(state.data());
    d_states.back() = nullptr;
    force_simd_target(SimdTarget::kScalar);
    const DeltaGradients expected = gradients_of(p, d_o, d_states);
    force_simd_target(std::nullopt);
    const DeltaGradients got =
        gradients_of(p, d_o, d_states, [](const GatedDeltaBackwardArgs& args) {
          std::vector<float> scratch(cuda::gated_delta_backward_bytes(args) / 4, NAN);
          cuda::gated_delta_backward(args, scratch.data(),
                                     cuda_model::launch<cuda::BackwardCall>);
        });
    const double tolerance = 200 * kFloatEpsilon;
    EXPECT_LE(max_abs_difference(got.qkv, expected.qkv),
              tolerance * largest(expected.qkv));
    EXPECT_LE(max_abs_difference(got.a, expected.a), tolerance * largest(expected.a));
    EXPECT_LE(max_abs_difference(got.b, expected.b), tolerance * largest(expected.b));
  }
}

}  // namespace
}  // namespace optiq::kernels
