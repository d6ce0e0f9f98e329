// What of sampling a device does, on cuda_model.h.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "optiq/kernels/cuda_model_launch.h"
#include "optiq/kernels/guarded.h"
#include "optiq/kernels/sampling/sampling.h"
#include "optiq/kernels/sampling/sampling_cuda.cu"
#include "optiq/kernels/testing.h"

namespace optiq::kernels {
namespace {

using namespace optiq::testing;

std::vector<std::int32_t> chosen(const Guarded<float>& logits, int width,
                                 const std::vector<RowDraw>& draws) {
  const int rows = static_cast<int>(draws.size());
  const Guarded<RowDraw> guarded_draws(draws.begin(), draws.end());
  Guarded<std::int32_t> ids(draws.size());
  cuda::choose_tokens(logits.data(), rows, width, guarded_draws.data(), ids.data(),
                      cuda_model::launch<cuda::ChooseArgs>);
  return {ids.begin(), ids.end()};
}

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
    int expected = 0;
    for (int i = 1; i < width; ++i)
      if (at(0, i) > at(0, expected)) expected = i;
    EXPECT_EQ(chosen(logits, width, std::vector<RowDraw>(rows)),
              (std::vector<std::int32_t>{expected, width / 3, -1, -1, -1, width - 1}))
        << width;
  }
}

// Logits as a model has them: a few near the largest, many far below; in two rows
// many of the same.
Guarded<float> rows_of_logits(int rows, int width, float spread) {
  auto logits = guarded(random_floats(std::size_t(rows) * width, rows + width));
  for (float& x : logits) x *= spread * x * x;
  for (int i = 0; i < 2 * width && rows > 2; ++i) logits[i] = std::round(logits[i]);
  return logits;
}

// Each draw is the sampler's, one after another of a seed.
TEST(SamplingOnModel, DrawsAsTheSamplerDoes) {
  const SamplingOptions all[] = {
      {.temperature = 1},
      {.temperature = 0.3f},
      {.temperature = 2},
      {.temperature = 0.8f, .top_k = 1},
      {.temperature = 0.8f, .top_k = 40},
      {.temperature = 1, .top_p = 0.9f},
      {.temperature = 0.7f, .top_p = 0},
      {.temperature = 1, .min_p = 0.05f},
      {.temperature = 1.2f, .top_k = 50, .top_p = 0.95f, .min_p = 0.02f},
      {.temperature = 1, .top_p = 0.8f, .min_p = 0.3f},
      {.temperature = 0.5f, .top_k = 100000, .top_p = 0.99f},
  };
  constexpr int kRows = 3;
  for (const int width : {1, 5000}) {
    const auto logits = rows_of_logits(kRows, width, 12);
    for (const SamplingOptions& options : all) {
      Sampler sampler(options, 7);
      std::vector<RowDraw> draws;
      for (int row = 0; row < kRows; ++row) draws.push_back(*sampler.next_draw(row));
      const auto ids = chosen(logits, width, draws);
      for (int row = 0; row < kRows; ++row)
        EXPECT_EQ(ids[row], sampler.sample({&logits[std::size_t(row) * width],
                                            std::size_t(width)}))
            << width << ' ' << row << ' ' << options.temperature << ' ' << options.top_k
            << ' ' << options.top_p << ' ' << options.min_p;
    }
  }
}

// What passes the filters among equal logits is more than the device looks at.
TEST(SamplingOnModel, LeavesManyCandidatesToTheHost) {
  const int width = 5000;
  const Guarded<float> logits(width, 1.0f);
  const RowDraw filtered{.number = 0.5, .scale = 1, .top_p = 0.9f};
  const RowDraw free{.number = 0.5, .scale = 1};
  EXPECT_EQ(chosen(logits, width, {filtered}), std::vector<std::int32_t>{-1});
  EXPECT_EQ(chosen(logits, width, {free}), std::vector<std::int32_t>{width / 2});
}

// A call that is skipped leaves the sampler where the call would have.
TEST(SamplingOnModel, SkippedDrawsAreDrawn) {
  for (const float temperature : {0.0f, 1.0f}) {
    Sampler one({.temperature = temperature}, 3),
        other({.temperature = temperature}, 3);
    const std::vector<float> logits{0.1f, 0.2f, 0.3f, 0.4f};
    for (int i = 0; i < 20; ++i) {
      EXPECT_EQ(one.next_draw(2), other.next_draw(2));
      one.sample(logits);
      other.skip();
    }
  }
}

}  // namespace
}  // namespace optiq::kernels
