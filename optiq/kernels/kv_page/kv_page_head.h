// One head of a sequence's pages: what the builds of kv_page.h and of attention share.
#pragma once
#include <span>

#include "optiq/kernels/kv_page/kv_page.h"

namespace optiq::kernels {

inline const KvLayout& layout_of(const KvPages& pages, int page) {
  return page < pages.float_pages ? *pages.float_layout : *pages.coded_layout;
}

/// Where the head begins in a page.
inline std::byte* head_of(const KvPages& pages, int page, int head) {
  const bool is_float = page < pages.float_pages;
  const KvLayout& layout = is_float ? *pages.float_layout : *pages.coded_layout;
  return pages.pages[page] + (is_float ? pages.float_offset : pages.coded_offset) +
         head * layout.head_bytes;
}

/// Where the bits of a code lie in its tile, for a plane of `width` bits that begins
/// at `plane`.
struct CodePlace {
  int byte, shift;
};
constexpr CodePlace code_place(int width, int plane, int lane, int depth) {
  const int column = depth / 4, pair = column / 2;
  if (width == 8) return {plane + 64 * column + 4 * lane + depth % 4, 0};
  return {plane + 64 * (pair * width / 4) + 4 * lane + depth % 4,
          4 * (column % 2) + width * (pair % (4 / width))};
}

/// The planes of a width, the low bits first; a second of 0 bits is none.
struct Planes {
  int first, second;
};
constexpr Planes planes_of(int bits) {
  switch (bits) {
    case 3:
      return {2, 1};
    case 5:
      return {4, 1};
    case 6:
      return {4, 2};
    default:
      return {bits, 0};
  }
}

/// Affine ranges that are tried: all of it, then less by a step of this part each time.
constexpr int kClipSteps = 6;
constexpr float clip_step(int bits) {
  constexpr float kSteps[] = {.08f, .06f, .04f, .03f, .02f, .01f, .006f};
  return kSteps[bits - 2];
}

namespace ref {
/// The definition, value by value, in double precision.
void append_head(const KvRows& rows, const KvPages& pages, int head);
void read_head(const KvPages& pages, const KvReadArgs& args);

/// A token's K or V as it is stored, x [head_dim].
void stored_row(const KvSide& side, const std::byte* head, bool keys, int token,
                const KvTransform& transform, std::span<double> x);

/// Codes a token's K or V, which has passed the transform.
void store_row(const KvSide& side, std::byte* head, bool keys, int token,
               const KvTransform& transform, std::span<const double> x);

/// In place: y = H (signs x), and its inverse.
void rotate(const float* signs, int n, double* x);
void rotate_back(const float* signs, int n, double* x);

/// x *= scale, unless that is null.
void scale_channels(const float* scale, std::span<double> x);
}  // namespace ref

}  // namespace optiq::kernels
