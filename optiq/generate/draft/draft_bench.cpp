// What a step of n rows of one sequence costs, against one of a single row: guesses pay
// where more of them hold than that costs.
//
//     draft_bench MODEL [DEPTH]
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <vector>

#include "optiq/generate/draft/draft.h"
#include "optiq/generate/session.h"

int main(int argc, char** argv) {
  if (argc < 2) {
    fmt::print(stderr, "usage: {} MODEL [DEPTH]\n", argv[0]);
    return 2;
  }
  using Clock = std::chrono::steady_clock;
  optiq::LoadedModel model = optiq::load(argv[1], {.text = false});
  const int depth = argc > 2 ? std::atoi(argv[2]) : 64;
  optiq::generation::Session session(*model.model, {});
  std::vector<int> prompt;
  for (int i = 0; i < depth; ++i) prompt.push_back(1 + i * 37 % 1000);
  session.feed(prompt);
  session.take_snapshot();
  constexpr int kRuns = 21;
  std::vector<std::vector<double>> times(optiq::generation::kStepRows + 1);
  for (int run = 0; run < kRuns; ++run)
    for (int rows = 1; rows <= optiq::generation::kStepRows; ++rows) {
      const std::span<const int> ids(prompt.data(), static_cast<std::size_t>(rows));
      session.step(ids);  // tapes
      session.truncate(depth);
      session.take_snapshot();
      const Clock::time_point start = Clock::now();
      session.step(ids);
      times[static_cast<std::size_t>(rows)].push_back(
          std::chrono::duration<double, std::milli>(Clock::now() - start).count());
      session.truncate(depth);
      session.take_snapshot();
    }
  double one = 0;
  for (int rows = 1; rows <= optiq::generation::kStepRows; ++rows) {
    auto& of_rows = times[static_cast<std::size_t>(rows)];
    std::ranges::nth_element(of_rows, of_rows.begin() + kRuns / 2);
    const double median = of_rows[kRuns / 2];
    if (rows == 1) one = median;
    fmt::print("{} rows: {:.2f} of one row, {:.2f} ms\n", rows, median / one, median);
  }
}
