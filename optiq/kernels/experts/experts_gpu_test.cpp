// Routing and experts of experts_primitive.h on a GPU beside those on the CPU.
#include <array>

#include "optiq/kernels/experts/experts_primitive.h"
#include "optiq/kernels/gpu_testing.h"

namespace optiq::kernels {
namespace {

using namespace optiq::testing;
using ExpertsOnGpu = OnGpu;

// Few tokens, which kernels of ours take, and many, which are sorted by their experts.
TEST_F(ExpertsOnGpu, AreAsOnTheCpu) {
  constexpr int kExperts = 8, kActive = 2, K = 256, N = 128;
  std::uint64_t seed = 0;
  for (const auto& spec :
       {QuantSpec{QuantMode::kAffine, 4, 64}, QuantSpec{QuantMode::kAffine, 3, 32},
        QuantSpec{QuantMode::kMxfp4, 4, 32}})
    for (const int T : {1, 6, 70, 900}) {
      SCOPED_TRACE(::testing::Message() << describe(spec) << ' ' << T);
      const mx::array x = random_array({T, K}, ++seed);
      const mx::array logits = random_array({T, kExperts}, ++seed);
      const mx::array residual = random_array({T, K}, ++seed);
      const ExpertWeights weights{random_weight(kExperts * N, K, spec, ++seed),
                                  random_weight(kExperts * N, K, spec, ++seed),
                                  random_weight(kExperts * K, N, spec, ++seed),
                                  kExperts};
      for (const Activation activation : {Activation::kExact, Activation::kInt8})
        expect_same_on_both(
            [&] {
              const Route to = route(logits, {kActive, true, std::nullopt});
              return std::vector{to.weights, experts(x, to, weights, GluGate::kSilu,
                                                     activation, residual)};
            },
            // Eight bits of activations on the CPU, bfloat16 of many rows here.
            activation == Activation::kExact ? 5e-5f : 2e-2f);
    }
}

}  // namespace
}  // namespace optiq::kernels
