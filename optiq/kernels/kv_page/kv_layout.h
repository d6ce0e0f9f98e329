// Where one attention layer's keys and values lie in a page.
//
// A page holds kPageTokens tokens for all layers. A layer's piece of it is its heads
// one after another, each `head_bytes` long: K's codes, scales, biases, then V's, so
// that a head's walk over a page is one run of memory. Everything is a multiple of 64
// bytes.
//
// Codes lie as the integer dot product takes them, in tiles of 16 lanes by 32 depth.
// K: lanes are tokens, depth is channels; tiles in the order [token / 16][channel /
// 32]. V: lanes are channels, depth is tokens; [channel / 16][token / 32]. A tile is
// `bits` vectors of 64 bytes, in planes (below); unpacked it is 8 columns of 64 bytes,
// and byte 4 lane + j of column c is the code of depth 4 c + j. Channels past head_dim
// have code 0. In place of biases kTurboQjl has its second scales.
//
// Planes: 8 bits are the columns themselves. Other widths are one or two planes (3 = 2
// + 1, 5 = 4 + 1, 6 = 4 + 2, the low bits first) of w = 4, 2 or 1 bits: column c lies
// in vector c / 2 * w / 4 of the plane, from bit 4 (c % 2) + w (c / 2 % (4 / w)) of
// each byte. Scales and biases are float16, [group][token].
#pragma once
#include <cstddef>
#include <cstdint>

#include "optiq/kernels/kv_page/kv_format.h"

namespace optiq {

constexpr int kPageTokens = 64;
constexpr int kTileLanes = 16;
constexpr int kTileDepth = 32;

/// Keys or values of one head in a page: byte offsets from where the head begins.
/// A float side has rows [kPageTokens, head_dim] at `codes`, and no scales.
struct KvSide {
  KvFormat format;
  int groups;        // of a vector; 0 for floats
  int group_values;  // values of a group; the last group may have fewer
  std::int64_t codes, scales, biases;
  std::int64_t bytes;
};

struct KvLayout {
  int n_kv_heads, head_dim;
  KvSide k, v;
  std::int64_t head_bytes;

  /// Bytes of the layer's piece of a page.
  std::int64_t bytes() const { return n_kv_heads * head_bytes; }
};

/// Requires  n_kv_heads >= 1, head_dim of 1 to 1024, formats from kv_format.h
/// Throws    std::invalid_argument otherwise
KvLayout make_kv_layout(int n_kv_heads, int head_dim, const KvFormat& k,
                        const KvFormat& v);

/// What vectors pass before they are stored, the same for both kinds of a layer's
/// pages. K: minus `k_mean`, times `k_scale`, then the rotation; V: times `v_scale`,
/// then the rotation. A null pointer: not done. Queries meet scaled keys by `q_scale`,
/// and what scaled values sum to is taken back by `sum_scale`: the inverses.
/// `k_residual_signs` is of the projection of kTurboQjl, a rotation of its own that is
/// done twice.
///
/// A rotation is a randomized Hadamard transform: y = H (signs x), over blocks of
/// powers of two (96 = 64 + 32), orthonormal as `signs` has the factor of its block in
/// it; so x = signs (H y). Scores and sums are taken in rotated space.
///
/// Shapes    k_signs, v_signs, k_residual_signs [head_dim]; k_mean and the scales
///           [n_kv_heads, head_dim]
struct KvTransform {
  const float* k_signs = nullptr;
  const float* v_signs = nullptr;
  const float* k_mean = nullptr;
  const float* k_residual_signs = nullptr;
  const float* k_scale = nullptr;
  const float* q_scale = nullptr;
  const float* v_scale = nullptr;
  const float* sum_scale = nullptr;
};

/// The part of [n_kv_heads, head_dim] that is one head's; null of null.
constexpr const float* of_head(const float* channels, int head, int head_dim) {
  return channels ? channels + std::int64_t{head} * head_dim : nullptr;
}

/// The pages of one sequence as one layer sees them: page i holds tokens [64 i, 64 i +
/// 64), the first `float_pages` in the float layout, the others in the coded one.
/// A layer's piece lies at pages[i] + its offset, aligned to 64 bytes.
struct KvPages {
  const KvLayout* float_layout = nullptr;  // may be null where float_pages is 0
  const KvLayout* coded_layout = nullptr;  // any formats; null where all are float
  std::int64_t float_offset = 0;
  std::int64_t coded_offset = 0;
  int float_pages = 0;
  std::byte* const* pages = nullptr;
  int n_pages = 0;
  const KvTransform* transform = nullptr;  // null: none
  bool on_device = false;  // all this memory but the table is a CUDA device's too
};

}  // namespace optiq
