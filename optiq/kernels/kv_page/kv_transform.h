// The random signs of a layer's rotation (KvTransform in kv_layout.h).
#pragma once
#include <cstdint>
#include <vector>

#include "optiq/kernels/kv_page/kv_layout.h"

namespace optiq {

/// Signs for a rotation of `head_dim` values, with the factor 1 / sqrt(block) of their
/// block: the same for the same seed everywhere.
std::vector<float> rotation_signs(int head_dim, std::uint64_t seed);

/// The largest power of two in n: the size of the rotation's next block.
constexpr int rotation_block(int n) {
  int block = 1;
  while (2 * block <= n) block *= 2;
  return block;
}

}  // namespace optiq
