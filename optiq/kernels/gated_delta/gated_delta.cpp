#include "optiq/kernels/gated_delta/gated_delta.h"

#include <algorithm>
#include <vector>

#include "optiq/base/parallel.h"
#include "optiq/kernels/dispatch.h"

namespace optiq::kernels {
namespace {

// No panel of columns is wider, so that whole panels make up a block.
constexpr int kBlockUnit = 64;

// The scratch of one item: packed keys and queries of sixteen tokens, the block of the
// state, the edge of half a vector; rows rounded up to a register tile.
std::size_t scratch_size(const GatedDeltaArgs& args, int columns) {
  return (static_cast<std::size_t>(args.key_dim) + 8) *
         (static_cast<std::size_t>(columns) + 32 + kBlockUnit);
}

float* thread_scratch(std::size_t size) {
  constexpr std::size_t kAlignment = 64;
  thread_local std::vector<float> memory;
  if (memory.size() < size + kAlignment / sizeof(float))
    memory.resize(size + kAlignment / sizeof(float));
  const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
  return reinterpret_cast<float*>((address + kAlignment - 1) / kAlignment * kAlignment);
}

}  // namespace

OPTIQ_DECLARE_SIMD(void gated_delta_item(const GatedDeltaArgs& args,
                                         const GatedDeltaItem& item, float* scratch))

void gated_delta(const GatedDeltaArgs& args) {
  const auto run = OPTIQ_CHOOSE(gated_delta_item);
  const int heads = args.n_segments * args.n_value_heads;
  // Whole heads prepare their keys once; blocks are for want of heads.
  const int wanted = heads > 0 ? (2 * thread_count() + heads - 1) / heads : 1;
  const int units = (args.value_dim + kBlockUnit - 1) / kBlockUnit;
  const int width = (units + wanted - 1) / wanted * kBlockUnit;
  const int blocks = (args.value_dim + width - 1) / width;
  parallel_for(static_cast<std::size_t>(heads) * static_cast<std::size_t>(blocks),
               [&](std::size_t i) {
                 const int head = static_cast<int>(i) / blocks;
                 const int begin = static_cast<int>(i) % blocks * width;
                 const int end = std::min(begin + width, args.value_dim);
                 run(args,
                     {args.segments + head / args.n_value_heads,
                      head % args.n_value_heads, begin, end},
                     thread_scratch(scratch_size(args, end - begin)));
               });
}

}  // namespace optiq::kernels
