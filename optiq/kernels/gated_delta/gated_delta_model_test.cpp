// The device's gated delta rule on cuda_model.h.
#include <gtest/gtest.h>

#include <cmath>

#include "optiq/kernels/cuda_model_launch.h"
#include "optiq/kernels/gated_delta/gated_delta_cuda.cu"
#include "optiq/kernels/gated_delta/gated_delta_problem.h"
#include "optiq/kernels/testing.h"

namespace optiq::kernels {
namespace {

using namespace optiq::testing;

void run_on_model(const GatedDeltaArgs& args) {
  cuda::gated_delta(args, cuda_model::launch<cuda::DeltaCall>);
}

void run_reference(const GatedDeltaArgs& args) {
  for (int i = 0; i < args.n_segments; ++i)
    for (int head = 0; head < args.n_value_heads; ++head)
      ref::gated_delta_item(args, {&args.segments[i], head, 0, args.value_dim},
                            nullptr);
}

double largest(const GuardedFloats& values) {
  double most = 1e-3;
  for (const float v : values) most = std::max(most, std::abs(double(v)));
  return most;
}

// Dims that leave lanes and columns without work, key heads that are shared, segments
// of no token and of several bringings, states in place.
TEST(GatedDeltaOnModel, IsTheReference) {
  struct Shape {
    int Hk, Hv, Dk, Dv;
    std::vector<int> tokens;
  };
  for (const Shape& s :
       {Shape{1, 1, 1, 1, {3}}, Shape{1, 2, 64, 40, {1, 0, 17}},
        Shape{2, 4, 24, 7, {8, 9}}, Shape{1, 2, 128, 128, {1, 33}},
        Shape{1, 1, 101, 64, {70}}, Shape{1, 1, 256, 33, {12}},
        Shape{1, 1, 16, 32, std::vector<int>(cuda::kSegmentsAtOnce + 2, 1)}}) {
    SCOPED_TRACE(::testing::Message() << "Dk " << s.Dk << " Dv " << s.Dv);
    GatedDeltaProblem expected(s.Hk, s.Hv, s.Dk, s.Dv, s.tokens, 1), got = expected;
    expected.run_with(run_reference);
    got.run_with(run_on_model);
    EXPECT_LE(max_abs_difference(got.o, expected.o), 1e-5 * largest(expected.o));
    EXPECT_LE(max_abs_difference(got.states, expected.states),
              1e-5 * largest(expected.states));
  }
}

// So that a draft's tokens, checked together, leave the state of a plain decode.
TEST(GatedDeltaOnModel, ManyTokensEqualStepsBitForBit) {
  const GatedDeltaProblem problem(2, 4, 64, 40, {19}, 17);
  GatedDeltaProblem together = problem, steps = problem;
  together.run_with(run_on_model);
  for (int t = 0; t < problem.T; ++t) steps.run_rows(t, 1, run_on_model);
  EXPECT_EQ(max_abs_difference(together.o, steps.o), 0);
  EXPECT_EQ(max_abs_difference(together.states, steps.states), 0);
}

}  // namespace
}  // namespace optiq::kernels
