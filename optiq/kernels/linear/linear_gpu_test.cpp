// The products of linear_primitive.h on a GPU beside those on the CPU.
#include <array>

#include "optiq/kernels/gpu_testing.h"

namespace optiq::kernels {
namespace {

using namespace optiq::testing;
using LinearOnGpu = OnGpu;

TEST_F(LinearOnGpu, IsAsOnTheCpu) {
  std::uint64_t seed = 0;
  for (const QuantSpec& spec :
       {QuantSpec{QuantMode::kAffine, 4, 64}, QuantSpec{QuantMode::kAffine, 3, 32},
        QuantSpec{QuantMode::kMxfp4, 4, 32}})
    for (const int M : {1, 2, 5, 37, 70})
      for (const auto& [N, K] : {std::pair{192, 128}, std::pair{512, 320}}) {
        SCOPED_TRACE(::testing::Message()
                     << describe(spec) << ' ' << M << ' ' << N << ' ' << K);
        const mx::array x = random_array({M, K}, ++seed),
                        residual = random_array({M, N}, ++seed);
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
