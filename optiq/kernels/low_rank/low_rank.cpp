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

// Some rows of one product.
struct Block {
  const LowRankArgs* args;
  LowRankRows rows;
};

}  // namespace

void low_rank(std::span<const LowRankArgs> products) {
  const auto inner = OPTIQ_CHOOSE(low_rank_inner);
  const auto outer = OPTIQ_CHOOSE(low_rank_outer);
  std::vector<Block> blocks;
  for (const LowRankArgs& args : products)
    for (const LowRankRows& r : args.rows)
      for (int begin = r.begin; begin < r.end; begin += kLowRankBlock)
        blocks.push_back(
            {&args, {begin, std::min(r.end, begin + kLowRankBlock), r.factors}});
  const auto h_of = [&](const Block& block) {
    const LowRankRows& r = block.rows;
    std::vector<float> h;
    if (!r.factors) return h;
    h.resize(static_cast<std::size_t>((r.end - r.begin) * r.factors->rank));
    inner(*block.args, *r.factors, r.begin, r.end, h.data());
    return h;
  };
  const auto add = [&](const Block& block, const std::vector<float>& h, int n_begin,
                       int n_end) {
    outer(*block.args, block.rows.factors, block.rows.begin, block.rows.end, h.data(),
          n_begin, n_end);
  };
  if (blocks.size() > products.size()) {
    parallel_for(blocks.size(), [&](std::size_t i) {
      add(blocks[i], h_of(blocks[i]), 0, blocks[i].args->N);
    });
    return;
  }
  // A step of few rows: its columns are shared out.
  for (const Block& block : blocks) {
    const std::vector<float> h = h_of(block);
    const int row_work = std::max<int>(1, static_cast<int>(h.size()));
    const int grain = std::max(64, kWorthAChunk / row_work / 64 * 64);
    parallel_ranges(static_cast<std::size_t>(block.args->N),
                    static_cast<std::size_t>(grain),
                    [&](std::size_t begin, std::size_t end) {
                      add(block, h, static_cast<int>(begin), static_cast<int>(end));
                    });
  }
}

}  // namespace optiq::kernels
