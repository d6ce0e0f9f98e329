#include "optiq/kernels/low_rank/low_rank.h"

#include <algorithm>
#include <span>
#include <vector>

#include "optiq/base/parallel.h"
#include "optiq/kernels/dispatch.h"

namespace optiq::kernels {

OPTIQ_DECLARE_SIMD(void low_rank_inner(const LowRankArgs& args, const LowRankFactors& f,
                                       int begin, int end, float* h);
                   void low_rank_outer(const LowRankArgs& args, const LowRankFactors* f,
                                       int begin, int end, const float* h, int n_begin,
                                       int n_end))

namespace {

// Multiply-adds that outweigh the claim of a chunk.
constexpr int kWorthAChunk = 1 << 15;

}  // namespace

void low_rank(const LowRankArgs& args, const LowRankRows* rows, int n_rows) {
  const auto inner = OPTIQ_CHOOSE(low_rank_inner);
  const auto outer = OPTIQ_CHOOSE(low_rank_outer);
  std::vector<LowRankRows> blocks;
  for (const LowRankRows& r : std::span(rows, static_cast<std::size_t>(n_rows)))
    for (int begin = r.begin; begin < r.end; begin += kLowRankBlock)
      blocks.push_back({begin, std::min(r.end, begin + kLowRankBlock), r.factors});
  const auto space = [](const LowRankRows& block) {
    const int rank = block.factors ? block.factors->rank : 0;
    return static_cast<std::size_t>((block.end - block.begin) * rank);
  };
  if (blocks.size() == 1) {  // a step of few rows: its columns are shared out
    const LowRankRows& block = blocks[0];
    std::vector<float> h(space(block));
    if (block.factors) inner(args, *block.factors, block.begin, block.end, h.data());
    const int row_work = std::max<int>(1, static_cast<int>(h.size()));
    const int grain = std::max(64, kWorthAChunk / row_work / 64 * 64);
    parallel_ranges(static_cast<std::size_t>(args.N), static_cast<std::size_t>(grain),
                    [&](std::size_t begin, std::size_t end) {
                      outer(args, block.factors, block.begin, block.end, h.data(),
                            static_cast<int>(begin), static_cast<int>(end));
                    });
    return;
  }
  parallel_for(blocks.size(), [&](std::size_t i) {
    const LowRankRows& block = blocks[i];
    std::vector<float> h(space(block));
    if (block.factors) inner(args, *block.factors, block.begin, block.end, h.data());
    outer(args, block.factors, block.begin, block.end, h.data(), 0, args.N);
  });
}

}  // namespace optiq::kernels
