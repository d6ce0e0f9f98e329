#include "optiq/kernels/fused_primitive.h"

#include <gtest/gtest.h>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/kernels/host_primitive.h"

namespace optiq::kernels {
namespace {

// Two arrays, each with its values doubled: in place where that is possible.
class DoubleBoth : public FusedPrimitive {
 public:
  DoubleBoth()
      : FusedPrimitive(fused_stream(), "DoubleBoth", [](const Arrays& in) {
          return Arrays{in[0] * mx::array(2.0f), in[1] * mx::array(2.0f)};
        }) {}

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    release_siblings(inputs, outputs);
    for (std::size_t i = 0; i < 2; ++i) {
      const float* from = inputs[i].data<float>();
      if (!donate(inputs[i], outputs[i])) allocate(outputs[i]);
      dispatch([from, to = outputs[i].data<float>(), n = inputs[i].size()] {
        for (std::size_t j = 0; j < n; ++j) to[j] = 2 * from[j];
      });
    }
  }
};

Arrays double_both(Arrays inputs) {
  return mx::array::make_arrays({inputs[0].shape(), inputs[1].shape()},
                                {mx::float32, mx::float32},
                                std::make_shared<DoubleBoth>(), inputs);
}

Arrays two_arrays() {
  Arrays arrays{mx::array({1.0f, 2.0f}), mx::array({3.0f, 4.0f, 5.0f})};
  mx::eval(arrays);
  return arrays;
}

TEST(FusedPrimitive, WritesInPlaceWhicheverOfSeveralOutputsIsWantedFirst) {
  for (std::size_t first : {0u, 1u}) {
    Arrays in = two_arrays();
    const void* memory[2] = {in[0].data<void>(), in[1].data<void>()};
    const Arrays out = double_both(std::move(in));
    mx::eval(out[first]);
    for (std::size_t i = 0; i < 2; ++i) EXPECT_EQ(out[i].data<void>(), memory[i]);
    EXPECT_EQ(mx::sum(out[1]).item<float>(), 24.0f);
  }
}

TEST(FusedPrimitive, LeavesWhatSomebodyHoldsAsItWas) {
  const Arrays in = two_arrays();
  const Arrays out = double_both(in);
  mx::eval(out);
  EXPECT_EQ(mx::sum(in[1]).item<float>(), 12.0f);
  EXPECT_EQ(mx::sum(out[1]).item<float>(), 24.0f);
}

TEST(FusedPrimitive, KeepsTheGraphOfWhatAGradientStillWalks) {
  const auto f = [](const Arrays& x) {
    const Arrays once = double_both(x), twice = double_both(once);
    mx::eval(twice);  // in the middle of the trace
    return mx::sum(mx::square(twice[0])) + mx::sum(twice[1]);
  };
  const auto gradients = mx::grad(f, {0, 1})(two_arrays());
  EXPECT_EQ(mx::sum(gradients[0]).item<float>(), 2 * 16 * 3.0f);
  EXPECT_EQ(mx::sum(gradients[1]).item<float>(), 3 * 4.0f);
}

TEST(HostPrimitive, OverwritesWhereAnArrayLiesAndCopiesFromThere) {
  mx::array x({1.0f, 2.0f, 3.0f});
  const float* before = x.data<float>();
  const mx::array same = x;
  const float values[] = {4, 5, 6};
  overwrite(x, values);
  EXPECT_EQ(same.data<float>(), before);
  const mx::array copy = on_host(same);
  EXPECT_NE(copy.data<float>(), before);
  EXPECT_TRUE(mx::array_equal(copy, mx::array({4.0f, 5.0f, 6.0f})).item<bool>());
  EXPECT_EQ(beside_kernels(x).data<float>(), before);  // on the CPU
}

}  // namespace
}  // namespace optiq::kernels
