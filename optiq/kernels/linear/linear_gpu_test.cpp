// The products of linear_primitive.h on a GPU beside those on the CPU.
#include <gtest/gtest.h>

#include <array>

#include "mlx/ops.h"
#include "mlx/random.h"
#include "mlx/transforms.h"
#include "optiq/kernels/linear/linear_primitive.h"

namespace optiq::kernels {
namespace {

mx::array random(const mx::Shape& shape, std::uint64_t seed) {
  const mx::array x =
      mx::random::normal(shape, mx::float32, 0, 1, mx::random::key(seed));
  mx::eval(x);
  return x;
}

LinearWeight random_weight(int N, int K, const QuantSpec& spec, std::uint64_t seed) {
  const mx::array w = mx::astype(random({N, K}, seed) * 0.05f, mx::bfloat16);
  auto parts = mx::quantize(w, spec.group_size, spec.bits, name(spec.mode));
  LinearWeight weight{parts[0], parts[1], std::nullopt, std::nullopt, spec};
  if (parts.size() > 2) weight.biases = parts[2];
  for (const mx::array& part : parts) mx::eval(part);
  return weight;
}

// What `f` gives on the CPU and on the GPU.
template <class F>
void expect_same_on_both(F&& f) {
  mx::set_default_device(mx::Device::cpu);
  std::vector<mx::array> expected = f();
  mx::eval(expected);
  mx::set_default_device(mx::Device::gpu);
  std::vector<mx::array> found = f();
  mx::eval(found);
  mx::set_default_device(mx::Device::cpu);
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i)
    EXPECT_LT(mx::max(mx::abs(found[i] - expected[i])).item<float>(),
              5e-5f * mx::max(mx::abs(expected[i])).item<float>())
        << i;
}

class LinearOnGpu : public testing::Test {
 protected:
  void SetUp() override {
    if (!mx::is_available(mx::Device(mx::Device::gpu))) GTEST_SKIP() << "no GPU";
    mx::set_default_device(mx::Device::cpu);
  }
};

TEST_F(LinearOnGpu, IsAsOnTheCpu) {
  std::uint64_t seed = 0;
  for (const QuantSpec& spec :
       {QuantSpec{QuantMode::kAffine, 4, 64}, QuantSpec{QuantMode::kAffine, 3, 32},
        QuantSpec{QuantMode::kMxfp4, 4, 32}})
    for (const int M : {1, 2, 5, 37, 70})
      for (const auto& [N, K] : {std::pair{192, 128}, std::pair{512, 320}}) {
        SCOPED_TRACE(testing::Message()
                     << describe(spec) << ' ' << M << ' ' << N << ' ' << K);
        const mx::array x = random({M, K}, ++seed), residual = random({M, N}, ++seed);
        const LinearWeight a = random_weight(N, K, spec, ++seed);
        const LinearWeight b = random_weight(N, K, spec, ++seed);
        expect_same_on_both([&] {
          return std::vector{linear(x, a, {Activation::kExact, residual})};
        });
        expect_same_on_both([&] {
          return linear_group(x, std::array{a, b}, Activation::kExact);
        });
        expect_same_on_both([&] {
          return std::vector{glu(x, a, b, GluGate::kSilu, Activation::kExact)};
        });
        // A chain: what one product gives the next is given.
        const LinearWeight back = random_weight(K, N, spec, ++seed);
        expect_same_on_both([&] {
          mx::array y = x;
          for (int i = 0; i < 4; ++i)
            y = linear(glu(y, a, b, GluGate::kSilu, Activation::kExact), back,
                       {Activation::kExact, y});
          return std::vector{y};
        });
      }
}

}  // namespace
}  // namespace optiq::kernels
