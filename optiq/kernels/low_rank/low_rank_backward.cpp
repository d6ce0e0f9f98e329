#include "optiq/kernels/low_rank/low_rank_backward.h"

#include <vector>

#include "optiq/base/parallel.h"
#include "optiq/kernels/dispatch.h"

namespace optiq::kernels {

OPTIQ_DECLARE_SIMD(
    void low_rank_backward_rows(const LowRankBackwardArgs& args,
                                const LowRankBackwardScratch& s, int begin, int end);
    void low_rank_backward_a(const LowRankBackwardArgs& args,
                             const LowRankBackwardScratch& s, int begin, int end);
    void low_rank_backward_b(const LowRankBackwardArgs& args,
                             const LowRankBackwardScratch& s, int begin, int end))

namespace {

constexpr std::size_t kRows = 48, kColumns = 128;  // of a chunk of work

// [rank, n] -> [n, stride], and a vector's read behind the end.
std::vector<float> turned(const float* x, int rank, int n, int stride) {
  std::vector<float> columns(static_cast<std::size_t>(n) *
                             static_cast<std::size_t>(stride));
  for (int r = 0; r < rank; ++r)
    for (int i = 0; i < n; ++i)
      columns[static_cast<std::size_t>(i) * static_cast<std::size_t>(stride) +
              static_cast<std::size_t>(r)] = x[std::int64_t{r} * n + i];
  return columns;
}

}  // namespace

void low_rank_backward(const LowRankBackwardArgs& args) {
  const auto rows = OPTIQ_CHOOSE(low_rank_backward_rows);
  const auto by_a = OPTIQ_CHOOSE(low_rank_backward_a);
  const auto by_b = OPTIQ_CHOOSE(low_rank_backward_b);
  const int stride = (args.rank + 31) / 32 * 32;
  const auto n = static_cast<std::size_t>(args.M) * static_cast<std::size_t>(args.rank);
  std::vector<float> h(n), dh(n), a = turned(args.a, args.rank, args.K, stride),
                                  b = turned(args.b, args.rank, args.N, stride);
  const LowRankBackwardScratch s{h.data(), dh.data(), a.data(), b.data(), stride};
  const auto part = [&](auto step) {
    return [&, step](std::size_t begin, std::size_t end) {
      step(args, s, static_cast<int>(begin), static_cast<int>(end));
    };
  };
  parallel_ranges(static_cast<std::size_t>(args.M), kRows, part(rows));
  parallel_ranges(static_cast<std::size_t>(args.K), kColumns, part(by_a));
  parallel_ranges(static_cast<std::size_t>(args.N), kColumns, part(by_b));
}

}  // namespace optiq::kernels
