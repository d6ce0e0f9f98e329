// The device's convolution on cuda_model.h.
#include <gtest/gtest.h>

#include "optiq/kernels/causal_conv/causal_conv_cuda.cu"
#include "optiq/kernels/cuda_model_launch.h"
#include "optiq/kernels/guarded.h"
#include "optiq/kernels/testing.h"

namespace optiq::kernels {
namespace {

using namespace optiq::testing;

// Segments of no tokens, fewer than the tail has and several chunks; more of them than
// a launch takes; tails in place.
TEST(CausalConvOnModel, IsTheReference) {
  std::vector<int> many(cuda::kSegmentsAtOnce + 3, 1);
  for (const std::vector<int>& tokens :
       {std::vector<int>{1}, {0, 2, 1}, {150, 64}, {3, 65, 0}, many})
    for (const int kernel : {1, 2, 4, cuda::kMostConvKernel})
      for (const int channels : {1, 130}) {
        SCOPED_TRACE(::testing::Message() << tokens.size() << " segments, kernel "
                                          << kernel << ", channels " << channels);
        constexpr int kGap = 5;
        int T = 0;
        for (const int n : tokens) T += n;
        const std::size_t tail = std::size_t(kernel - 1) * channels;
        const auto x = guarded(random_floats(std::size_t(T) * (channels + kGap), 1));
        const auto weight = guarded(random_floats(std::size_t(channels) * kernel, 2));
        auto tails = guarded(random_floats(tokens.size() * tail, 3)), expected = tails;
        GuardedFloats y(std::size_t(T) * channels), expected_y = y;
        CausalConvArgs args{};
        args.x = x.data();
        args.x_stride = channels + kGap;
        args.weight = weight.data();
        args.channels = channels;
        args.kernel = kernel;
        args.n_segments = static_cast<int>(tokens.size());
        const auto run = [&](GuardedFloats& of, GuardedFloats& to, auto&& kernels) {
          std::vector<CausalConvSegment> segments;
          std::int64_t row = 0;
          for (std::size_t i = 0; i < tokens.size(); row += tokens[i++]) {
            float* at = of.data() + i * tail;
            segments.push_back({row, tokens[i], at, at});
          }
          args.segments = segments.data();
          args.y = to.data();
          kernels();
        };
        run(expected, expected_y, [&] {
          for (int i = 0; i < args.n_segments; ++i)
            ref::causal_conv_channels(args, args.segments[i], 0, channels);
        });
        run(tails, y,
            [&] { cuda::causal_conv_silu(args, cuda_model::launch<cuda::ConvCall>); });
        EXPECT_LE(max_abs_difference(y, expected_y), 1e-5);
        EXPECT_EQ(max_abs_difference(tails, expected), 0);
      }
}

}  // namespace
}  // namespace optiq::kernels
