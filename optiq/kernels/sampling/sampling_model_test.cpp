// What of sampling a device does, on cuda_model.h.
#include <gtest/gtest.h>

#include <cmath>

#include "optiq/kernels/cuda_model_launch.h"
#include "optiq/kernels/guarded.h"
#include "optiq/kernels/sampling/sampling_cuda.cu"
#include "optiq/kernels/testing.h"

namespace optiq::kernels {
namespace {

using namespace optiq::testing;

// Rows of any width, ties, and those that the host has to refuse.
TEST(SamplingOnModel, FindsTheLargestLogit) {
  for (const int width : {1, 31, 1000, 20000}) {
    const int rows = 6;
    auto logits = guarded(random_floats(std::size_t(rows) * width, width));
    const auto at = [&](int row, int i) -> float& { return logits[row * width + i]; };
    at(1, width / 2) = at(1, width / 3) = 1e6f;
    at(2, width - 1) = NAN;
    at(3, width / 2) = INFINITY;
    for (int i = 0; i < width; ++i) at(4, i) = -INFINITY;
    at(5, width - 1) = 1e30f;
    Guarded<std::int32_t> ids(rows);
    cuda::largest_logits(logits.data(), rows, width, ids.data(),
                         cuda_model::launch<cuda::LargestArgs>);
    int expected = 0;
    for (int i = 1; i < width; ++i)
      if (at(0, i) > at(0, expected)) expected = i;
    EXPECT_EQ(ids, (Guarded<std::int32_t>{expected, width / 3, -1, -1, -1, width - 1}))
        << width;
  }
}

}  // namespace
}  // namespace optiq::kernels
