// Rows of K and V into a head's pages: a row is centred, rotated, coded with vectors
// along its values, and its codes are put where the tiles want them. A token is a lane
// of K's tiles, so its codes are whole bytes of 32 bits there; in V's tiles it is a
// depth, a byte of each lane, and its bits are put among those of its neighbours.
#include "optiq/kernels/kv_page/kv_codebook.h"
#include "optiq/kernels/kv_page/kv_page_head.h"
#include "optiq/kernels/kv_page/rotation.h"

namespace optiq::kernels::OPTIQ_SIMD {
namespace {

constexpr int kMaxValues = 1024 + 32;

typedef std::uint16_t Half;
typedef std::uint32_t Word;
typedef std::int32_t VecIntUnaligned
    __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef Word WordUnaligned __attribute__((aligned(1), may_alias));

struct Row {
  alignas(64) float x[kMaxValues];
  alignas(64) std::int32_t codes[kMaxValues];
};

OPTIQ_INLINE VecInt load_ints(const std::int32_t* p) {
  return *(const VecIntUnaligned*)p;
}
OPTIQ_INLINE void store_ints(std::int32_t* p, VecInt v) { *(VecIntUnaligned*)p = v; }

OPTIQ_INLINE Half to_f16(float value) {
  Half halves[kLanes];
  store_f16(halves, broadcast(value));
  return halves[0];
}
OPTIQ_INLINE float from_f16(Half value) {
  Half halves[kLanes];
  for (int i = 0; i < kLanes; ++i) halves[i] = value;
  return load_f16(halves)[0];
}

// v, with zeros in lanes from n on.
OPTIQ_INLINE Vec first_lanes(Vec v, int n) {
  if (n >= kLanes) return v;
  VecInt lane;
  for (int i = 0; i < kLanes; ++i) lane[i] = i;
  return lane < n ? v : (Vec){};
}

struct Scales {
  Half scale, bias;
};

OPTIQ_INLINE Vec affine_code(Vec x, float inverse, float bias, float middle) {
  const Vec q = round_to_nearest((x - bias) * inverse);
  return min(max(q, broadcast(-middle)), broadcast(middle - 1));
}

// x [n], readable to a whole vector; the lanes behind are copies of values of x.
OPTIQ_INLINE Scales encode_affine(const float* x, int n, int bits,
                                  std::int32_t* codes) {
  Vec low = load(x), high = low;
  for (int i = kLanes; i < n; i += kLanes) {
    low = min(load(x + i), low);
    high = max(load(x + i), high);
  }
  const float lowest = -reduce_max(-low), highest = reduce_max(high);
  const float center = 0.5f * (lowest + highest), range = highest - lowest;
  const float middle = (float)(1 << (bits - 1)), levels = 2 * middle - 1;
  Scales best{};
  float best_error = 0;
  for (int step = 0; step < kClipSteps; ++step) {
    const float kept = range * (1 - clip_step(bits) * (float)step);
    Scales tried;
    tried.scale = to_f16(kept / levels);
    const float scale = from_f16(tried.scale);
    tried.bias = to_f16(center - 0.5f * kept + scale * middle);
    const float bias = from_f16(tried.bias), inverse = scale > 0 ? 1 / scale : 0;
    Vec error{};
    for (int i = 0; i < n; i += kLanes) {
      const Vec v = load(x + i);
      const Vec d = (v - bias) - affine_code(v, inverse, bias, middle) * scale;
      error += first_lanes(d * d, n - i);
    }
    const float sum = reduce_add(error);
    if (step > 0 && !(sum < best_error)) continue;
    best_error = sum;
    best = tried;
  }
  const float scale = from_f16(best.scale), bias = from_f16(best.bias);
  const float inverse = scale > 0 ? 1 / scale : 0;
  for (int i = 0; i < n; i += kLanes)
    store_ints(codes + i, to_int(affine_code(load(x + i), inverse, bias, middle)) +
                              (1 << (bits - 1)));
  return best;
}

// Entries are symmetric: the magnitude's place among the positive ones, then the sign.
OPTIQ_INLINE Scales encode_turbo(const float* x, int n, int bits, bool keys,
                                 std::int32_t* codes) {
  const KvCodebook& book = kv_codebook(bits);
  const int half = 1 << (bits - 1);
  Vec squares{};
  for (int i = 0; i < n; i += kLanes) {
    const Vec v = first_lanes(load(x + i), n - i);
    squares = multiply_add(v, v, squares);
  }
  const float xx = reduce_add(squares);
  if (!(xx > 1e-30f)) {
    for (int i = 0; i < n; ++i) codes[i] = 0;
    return {};
  }
  const float unit = book.unit * __builtin_sqrtf((float)n / xx);
  Vec xc{}, cc{};
  for (int i = 0; i < n; i += kLanes) {
    const Vec v = first_lanes(load(x + i), n - i);
    const Vec magnitude = max(v, -v) * unit;
    VecInt place{};
    Vec entry = broadcast((float)book.entries[half]);
    for (int k = 0; k + 1 < half; ++k) {
      const float a = book.entries[half + k], b = book.entries[half + k + 1];
      const VecInt above = magnitude > 0.5f * (a + b);
      place -= above;
      entry += (Vec)((VecInt)broadcast(b - a) & above);
    }
    const VecInt positive = v > 0.0f;
    store_ints(codes + i, positive ? place + half : half - 1 - place);
    xc = multiply_add(max(v, -v), entry, xc);
    cc += first_lanes(entry * entry, n - i);
  }
  const float with_code = reduce_add(xc);
  return {to_f16(keys ? xx / with_code : with_code / reduce_add(cc)), 0};
}

// The plane's words of a K tile: four codes of a column in the bytes of each.
OPTIQ_INLINE void put_key_plane(const Word* columns, int width, int up, std::byte* to) {
  const Word mask = ((1u << width) - 1) * 0x01010101u;
  Word words[8] = {};
  for (int column = 0; column < 8; ++column) {
    const CodePlace place = code_place(width, 0, 0, 4 * column);
    words[place.byte / 64] |= (columns[column] >> up & mask) << place.shift;
  }
  for (int i = 0; i < width; ++i) *(WordUnaligned*)(to + 64 * i) = words[i];
}

OPTIQ_INLINE void put_keys(const KvSide& side, std::byte* head, int token, int dim,
                           const std::int32_t* codes) {
  const int bits = side.format.bits, tiles = (dim + kTileDepth - 1) / kTileDepth;
  const Planes planes = planes_of(bits);
  std::byte* to = head + side.codes + token / kTileLanes * tiles * 64 * bits +
                  token % kTileLanes * 4;
  for (int tile = 0; tile < tiles; ++tile, to += 64 * bits) {
    const std::int32_t* c = codes + tile * kTileDepth;
    Word columns[8];
    for (int i = 0; i < 8; ++i)
      columns[i] = (Word)(c[4 * i] | c[4 * i + 1] << 8 | c[4 * i + 2] << 16 |
                          c[4 * i + 3] << 24);
    put_key_plane(columns, planes.first, 0, to);
    if (planes.second)
      put_key_plane(columns, planes.second, planes.first, to + 64 * planes.first);
  }
}

// One plane of a V tile: the token's bits of each lane.
OPTIQ_INLINE void put_value_plane(const std::int32_t* codes, int width, int up,
                                  int depth, std::byte* to) {
  const CodePlace place = code_place(width, 0, 0, depth);
  const int shift = 8 * (depth % 4) + place.shift;
  const std::int32_t mask = (1 << width) - 1;
  std::int32_t* words = (std::int32_t*)(to + place.byte / 64 * 64);
  for (int i = 0; i < kTileLanes; i += kLanes) {
    const VecInt kept = load_ints(words + i) & ~(std::int32_t)((Word)mask << shift);
    store_ints(words + i, kept | ((load_ints(codes + i) >> up) & mask) << shift);
  }
}

OPTIQ_INLINE void put_values(const KvSide& side, std::byte* head, int token, int dim,
                             const std::int32_t* codes) {
  const int bits = side.format.bits, tiles = (dim + kTileLanes - 1) / kTileLanes;
  const Planes planes = planes_of(bits);
  const int depth = token % kTileDepth;
  std::byte* to = head + side.codes + token / kTileDepth * 64 * bits;
  for (int tile = 0; tile < tiles; ++tile, to += 2 * 64 * bits) {
    const std::int32_t* c = codes + tile * kTileLanes;
    put_value_plane(c, planes.first, 0, depth, to);
    if (planes.second)
      put_value_plane(c, planes.second, planes.first, depth, to + 64 * planes.first);
  }
}

OPTIQ_INLINE void put_floats(const KvSide& side, std::byte* head, int token, int dim,
                             const float* x) {
  const FloatType type = side.format.type;
  char* to = (char*)head + side.codes + (std::int64_t)token * dim * size_of(type);
  for (int i = 0; i < dim; i += kLanes) {
    float floats[kLanes];
    Half halves[kLanes];
    const Vec v = load(x + i);
    if (type == FloatType::kF32)
      store(floats, v);
    else if (type == FloatType::kF16)
      store_f16(halves, v);
    else
      store_bf16(halves, v);
    const int n = dim - i < kLanes ? dim - i : kLanes;
    const void* from = type == FloatType::kF32 ? (const void*)floats : halves;
    __builtin_memcpy(to + i * size_of(type), from, (std::size_t)(n * size_of(type)));
  }
}

OPTIQ_INLINE bool all_finite(const float* x, int n) {
  Vec zeros{};
  for (int i = 0; i < n; i += kLanes) zeros += first_lanes(load(x + i), n - i) * 0.0f;
  return reduce_add(zeros) == 0;
}

OPTIQ_INLINE void store_row(const KvSide& side, std::byte* head, bool keys, int token,
                            int dim, Row& row) {
  if (side.format.kind == KvKind::kFloat)
    return put_floats(side, head, token, dim, row.x);
  for (int i = dim; i < dim + kLanes; ++i) row.x[i] = row.x[dim - 1];
  Half* scales = (Half*)(head + side.scales);
  Half* biases = (Half*)(head + side.biases);
  for (int group = 0; group < side.groups; ++group) {
    const int begin = group * side.group_values;
    const int n = dim - begin < side.group_values ? dim - begin : side.group_values;
    const float* x = row.x + begin;
    std::int32_t* codes = row.codes + begin;
    Scales s;
    if (!all_finite(x, n)) {
      s.scale = s.bias = 0x7e00;
      for (int i = 0; i < n; ++i) codes[i] = 0;
    } else if (side.format.kind == KvKind::kAffine) {
      s = encode_affine(x, n, side.format.bits, codes);
    } else {
      s = encode_turbo(x, n, side.format.bits, keys, codes);
    }
    scales[group * kPageTokens + token] = s.scale;
    if (side.format.kind == KvKind::kAffine)
      biases[group * kPageTokens + token] = s.bias;
  }
  for (int i = dim; i < dim + kTileDepth; ++i) row.codes[i] = 0;
  if (keys)
    put_keys(side, head, token, dim, row.codes);
  else
    put_values(side, head, token, dim, row.codes);
}

OPTIQ_INLINE void load_row(const float* from, const float* mean, const float* scale,
                           const float* signs, int dim, float* x) {
  for (int i = 0; i < dim; ++i) x[i] = mean ? from[i] - mean[i] : from[i];
  for (int i = 0; scale && i < dim; ++i) x[i] *= scale[i];
  for (int i = dim; i < dim + kLanes; ++i) x[i] = 0;
  if (signs) rotate(signs, x, dim);
}

}  // namespace

void append_head(const KvRows& rows, const KvPages& pages, int head) {
  const KvTransform transform = pages.transform ? *pages.transform : KvTransform{};
  Row row;
  for (int i = 0; i < rows.tokens; ++i) {
    const int page = (rows.first + i) / kPageTokens;
    const int token = (rows.first + i) % kPageTokens;
    const KvLayout& layout =
        page < pages.float_pages ? *pages.float_layout : *pages.coded_layout;
    const int dim = layout.head_dim;
    std::byte* at =
        pages.pages[page] +
        (page < pages.float_pages ? pages.float_offset : pages.coded_offset) +
        head * layout.head_bytes;
    load_row(rows.k + i * rows.k_row_stride + head * rows.k_head_stride,
             of_head(transform.k_mean, head, dim),
             of_head(transform.k_scale, head, dim), transform.k_signs, dim, row.x);
    if (layout.k.format.kind == KvKind::kTurboQjl) {
      double x[kMaxValues];
      for (int j = 0; j < dim; ++j) x[j] = row.x[j];
      ref::store_row(layout.k, at, true, token, transform, {x, (std::size_t)dim});
    } else {
      store_row(layout.k, at, true, token, dim, row);
    }
    load_row(rows.v + i * rows.v_row_stride + head * rows.v_head_stride, nullptr,
             of_head(transform.v_scale, head, dim), transform.v_signs, dim, row.x);
    store_row(layout.v, at, false, token, dim, row);
  }
}

}  // namespace optiq::kernels::OPTIQ_SIMD
