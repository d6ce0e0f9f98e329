// The gated delta rule and its convolution on a GPU beside those on the CPU.
#include <array>

#include "optiq/kernels/causal_conv/causal_conv_primitive.h"
#include "optiq/kernels/gated_delta/gated_delta_primitive.h"
#include "optiq/kernels/gpu_testing.h"

namespace optiq::kernels {
namespace {

using namespace optiq::testing;
using GatedDeltaOnGpu = OnGpu;

// As in a model: the convolution's rows go to the rule; a second call goes on where the
// first one ended.
TEST_F(GatedDeltaOnGpu, IsAsOnTheCpu) {
  const GatedDeltaOptions options{2, 4, 128, 64};
  constexpr int kChannels = 2 * 2 * 128 + 4 * 64, kKernel = 4;
  std::uint64_t seed = 0;
  for (const std::vector<int>& tokens : {std::vector{1}, {300}, {1, 5, 70}}) {
    std::vector<Segment> segments;
    int T = 0;
    for (const int n : tokens) segments.push_back({n}), T += n;
    const mx::array x = random_array({T, kChannels}, ++seed);
    const mx::array weight = random_array({kChannels, kKernel}, ++seed);
    const mx::array a = random_array({T, 4}, ++seed), b = random_array({T, 4}, ++seed);
    const mx::array a_log = random_array({4}, ++seed) - 1;
    const mx::array dt_bias = random_array({4}, ++seed) - 3;
    mx::eval(a_log, dt_bias);
    expect_same_on_both([&] {
      std::vector<mx::array> tails, states, all;
      for (std::size_t i = 0; i < tokens.size(); ++i) {
        tails.push_back(mx::zeros({kKernel - 1, kChannels}));
        states.push_back(mx::zeros({4, 128, 64}));
      }
      for (int round = 0; round < 2; ++round) {
        auto [qkv, new_tails] = causal_conv_silu(x, weight, segments, tails);
        auto [y, new_states] = gated_delta(qkv, a, b, a_log, dt_bias, segments,
                                           std::move(states), options);
        all.insert(all.end(), {qkv, y});
        tails = new_tails;
        states = new_states;
      }
      all.insert(all.end(), states.begin(), states.end());
      all.insert(all.end(), tails.begin(), tails.end());
      return all;
    });
  }
}

// The gradients by q, k and v, by a and by b.
TEST_F(GatedDeltaOnGpu, HasTheCpusGradients) {
  const GatedDeltaOptions options{2, 4, 128, 64};
  const int T = 75, width = 2 * 2 * 128 + 4 * 64;
  const std::vector<Segment> segments{{70}, {5}};
  const mx::array a_log = random_array({4}, 1) - 1, dt_bias = random_array({4}, 2) - 3;
  const mx::array qkv = random_array({T, width}, 3);
  const mx::array a = random_array({T, 4}, 4), b = random_array({T, 4}, 5);
  const mx::array d_y = random_array({T, 4 * 64}, 6);
  mx::eval(a_log, dt_bias);
  expect_same_on_both(
      [&] {
        const auto y = [&](const std::vector<mx::array>& in) {
          std::vector<mx::array> states(2, mx::zeros({4, 128, 64}));
          return std::vector{gated_delta(in[0], in[1], in[2], a_log, dt_bias, segments,
                                         std::move(states), options)
                                 .first};
        };
        return mx::vjp(y, {qkv, a, b}, {d_y}).second;
      },
      2e-4f);
}

}  // namespace
}  // namespace optiq::kernels
