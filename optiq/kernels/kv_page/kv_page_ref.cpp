#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "optiq/kernels/kv_page/kv_codebook.h"
#include "optiq/kernels/kv_page/kv_page_head.h"
#include "optiq/kernels/kv_page/kv_transform.h"

namespace optiq::kernels::ref {
namespace {

using Vector = std::vector<double>;

void hadamard(int n, double* x) {
  for (int done = 0; done < n;) {
    const int block = rotation_block(n - done);
    for (int step = 1; step < block; step *= 2)
      for (int i = 0; i < block; ++i) {
        if (i & step) continue;
        const double a = x[done + i], b = x[done + i + step];
        x[done + i] = a + b;
        x[done + i + step] = a - b;
      }
    done += block;
  }
}

float stored_f16(double value) {
  return f16_to_float(float_to_f16(static_cast<float>(value)));
}

// Offset of the tile of a code, and the code's place in it.
struct Place {
  std::int64_t tile;
  int lane, depth;
};
Place place_of(const KvSide& side, bool keys, int channel, int token, int head_dim) {
  const std::int64_t tile_bytes = 64LL * side.format.bits;
  if (keys) {
    const int tiles = (head_dim + kTileDepth - 1) / kTileDepth;
    return {
        side.codes + (token / kTileLanes * tiles + channel / kTileDepth) * tile_bytes,
        token % kTileLanes, channel % kTileDepth};
  }
  return {side.codes +
              (channel / kTileLanes * (kPageTokens / kTileDepth) + token / kTileDepth) *
                  tile_bytes,
          channel % kTileLanes, token % kTileDepth};
}

// Calls f(byte, shift in the byte, width, shift in the code) for the planes of a code.
template <class F>
void for_each_plane(int bits, const Place& p, F&& f) {
  const Planes planes = planes_of(bits);
  const CodePlace low = code_place(planes.first, 0, p.lane, p.depth);
  f(p.tile + low.byte, low.shift, planes.first, 0);
  if (planes.second == 0) return;
  const CodePlace high = code_place(planes.second, 64 * planes.first, p.lane, p.depth);
  f(p.tile + high.byte, high.shift, planes.second, planes.first);
}

int load_code(const KvSide& side, const std::byte* head, const Place& place) {
  int code = 0;
  for_each_plane(
      side.format.bits, place, [&](std::int64_t at, int shift, int width, int up) {
        code |= (std::to_integer<int>(head[at]) >> shift & ((1 << width) - 1)) << up;
      });
  return code;
}

void store_code(const KvSide& side, std::byte* head, const Place& place, int code) {
  for_each_plane(
      side.format.bits, place, [&](std::int64_t at, int shift, int width, int up) {
        const int mask = (1 << width) - 1;
        const int kept = std::to_integer<int>(head[at]) & ~(mask << shift);
        head[at] = static_cast<std::byte>(kept | (code >> up & mask) << shift);
      });
}

std::uint16_t* halves(std::byte* head, std::int64_t at) {
  return reinterpret_cast<std::uint16_t*>(head + at);
}

// Codes of n values under a scale and bias that are as stored; gives the squared error.
double affine_codes(const double* x, int n, int bits, double scale, double bias,
                    int* codes) {
  const int middle = 1 << (bits - 1);
  double error = 0;
  for (int i = 0; i < n; ++i) {
    const double q = scale > 0 ? std::nearbyint((x[i] - bias) / scale) : 0;
    const double clipped = std::clamp<double>(q, -middle, middle - 1);
    codes[i] = static_cast<int>(clipped) + middle;
    error += std::pow(x[i] - bias - scale * clipped, 2);
  }
  return error;
}

void encode_affine(const KvSide& side, const double* x, int n, int* codes, float* scale,
                   float* bias) {
  const int bits = side.format.bits, middle = 1 << (bits - 1);
  const auto [low, high] = std::minmax_element(x, x + n);
  const double center = (*low + *high) / 2, range = *high - *low;
  double best = HUGE_VAL;
  std::vector<int> candidate(static_cast<std::size_t>(n));
  for (int step = 0; step < kClipSteps; ++step) {
    const double kept = range * (1 - clip_step(bits) * step);
    const float s = stored_f16(kept / ((1 << bits) - 1));
    const float b = stored_f16(center - kept / 2 + static_cast<double>(s) * middle);
    const double error = affine_codes(x, n, bits, s, b, candidate.data());
    if (!(error < best) && step > 0) continue;
    best = error;
    *scale = s;
    *bias = b;
    std::copy(candidate.begin(), candidate.end(), codes);
  }
}

void encode_turbo(int bits, bool keys, const double* x, int n, int* codes,
                  float* scale) {
  const KvCodebook& book = kv_codebook(bits);
  const int levels = 1 << bits;
  double xx = 0;
  for (int i = 0; i < n; ++i) xx += x[i] * x[i];
  const double unit = xx > 0 ? book.unit * std::sqrt(n / xx) : 0;
  double xc = 0, cc = 0;
  for (int i = 0; i < n; ++i) {
    int code = 0;
    while (code + 1 < levels &&
           x[i] * unit > 0.5 * (book.entries[code] + book.entries[code + 1]))
      ++code;
    codes[i] = code;
    xc += x[i] * book.entries[code];
    cc += static_cast<double>(book.entries[code]) * book.entries[code];
  }
  *scale = xx > 0 ? stored_f16(keys ? xx / xc : xc / cc) : 0;
}

// The projection S of residuals: the rotation twice. Once is not random enough: <k, S^T
// s> is then 0.1 to 0.3 % of |k|^2 too large, as large residuals, which lie where the
// codebook ends, are cut.
void project(const float* signs, int n, double* x) {
  rotate(signs, n, x);
  rotate(signs, n, x);
}
void project_back(const float* signs, int n, double* x) {
  rotate_back(signs, n, x);
  rotate_back(signs, n, x);
}

// The residual r is given by the signs s of S r as length S^T s, with the length |r|^2
// / |S r|_1 that makes <r, length S^T s> = |r|^2. Over random S the rest of S^T s is to
// either side alike, so the estimate of any <q, r> is unbiased.
void encode_qjl(int bits, const float* signs, const double* x, int n, int* codes,
                float* scale, float* length) {
  encode_turbo(bits - 1, false, x, n, codes, scale);
  const KvCodebook& book = kv_codebook(bits - 1);
  Vector r(x, x + n);
  double square = 0, absolute = 0;
  for (int i = 0; i < n; ++i) {
    r[static_cast<std::size_t>(i)] -=
        static_cast<double>(*scale) * book.entries[codes[i]];
    square += std::pow(r[static_cast<std::size_t>(i)], 2);
  }
  project(signs, n, r.data());
  for (int i = 0; i < n; ++i) {
    const double projected = r[static_cast<std::size_t>(i)];
    absolute += std::abs(projected);
    if (projected > 0) codes[i] |= 1 << (bits - 1);
  }
  *length = absolute > 0 ? stored_f16(square / absolute) : 0;
}

// Value `channel` of a token, of any format but kTurboQjl.
double stored_value(const KvSide& side, const std::byte* head, bool keys, int channel,
                    int token, int head_dim) {
  if (side.format.kind == KvKind::kFloat)
    return load_float(head + side.codes,
                      static_cast<std::int64_t>(token) * head_dim + channel,
                      side.format.type);
  const int group = channel / side.group_values;
  const std::int64_t at = group * kPageTokens + token;
  const double scale = load_float(head + side.scales, at, FloatType::kF16);
  const int code =
      load_code(side, head, place_of(side, keys, channel, token, head_dim));
  if (side.format.kind == KvKind::kTurbo)
    return scale * kv_codebook(side.format.bits).entries[code];
  return scale * (code - (1 << (side.format.bits - 1))) +
         load_float(head + side.biases, at, FloatType::kF16);
}

void stored_qjl(const KvSide& side, const std::byte* head, int token,
                const float* signs, std::span<double> x) {
  const int dim = static_cast<int>(x.size()), sign = 1 << (side.format.bits - 1);
  const KvCodebook& book = kv_codebook(side.format.bits - 1);
  const double scale = load_float(head + side.scales, token, FloatType::kF16);
  const double length = load_float(head + side.biases, token, FloatType::kF16);
  Vector coarse(x.size());
  for (int i = 0; i < dim; ++i) {
    const int code = load_code(side, head, place_of(side, true, i, token, dim));
    coarse[static_cast<std::size_t>(i)] = scale * book.entries[code & (sign - 1)];
    x[static_cast<std::size_t>(i)] = code & sign ? length : -length;
  }
  project_back(signs, dim, x.data());
  for (std::size_t i = 0; i < x.size(); ++i) x[i] += coarse[i];
}

}  // namespace

void store_row(const KvSide& side, std::byte* head, bool keys, int token,
               const KvTransform& transform, std::span<const double> x) {
  const int dim = static_cast<int>(x.size());
  if (side.format.kind == KvKind::kFloat) {
    for (int i = 0; i < dim; ++i) {
      const std::int64_t at = static_cast<std::int64_t>(token) * dim + i;
      const auto value = static_cast<float>(x[static_cast<std::size_t>(i)]);
      if (side.format.type == FloatType::kF32)
        reinterpret_cast<float*>(head + side.codes)[at] = value;
      else
        halves(head, side.codes)[at] = side.format.type == FloatType::kF16
                                           ? float_to_f16(value)
                                           : float_to_bf16(value);
    }
    return;
  }
  for (int group = 0; group < side.groups; ++group) {
    const int begin = group * side.group_values;
    const int n = std::min(side.group_values, dim - begin);
    std::vector<int> codes(static_cast<std::size_t>(n), 0);
    float scale = 0, bias = 0;
    if (!std::all_of(x.begin() + begin, x.begin() + begin + n,
                     [](double value) { return std::isfinite(value); }))
      scale = bias = std::numeric_limits<float>::quiet_NaN();
    else if (side.format.kind == KvKind::kAffine)
      encode_affine(side, x.data() + begin, n, codes.data(), &scale, &bias);
    else if (side.format.kind == KvKind::kTurbo)
      encode_turbo(side.format.bits, keys, x.data() + begin, n, codes.data(), &scale);
    else
      encode_qjl(side.format.bits, transform.k_residual_signs, x.data(), n,
                 codes.data(), &scale, &bias);
    halves(head, side.scales)[group * kPageTokens + token] = float_to_f16(scale);
    if (side.format.kind != KvKind::kTurbo)
      halves(head, side.biases)[group * kPageTokens + token] = float_to_f16(bias);
    for (int i = 0; i < n; ++i)
      store_code(side, head, place_of(side, keys, begin + i, token, dim),
                 codes[static_cast<std::size_t>(i)]);
  }
  const int padded = keys ? (dim + kTileDepth - 1) / kTileDepth * kTileDepth
                          : (dim + kTileLanes - 1) / kTileLanes * kTileLanes;
  for (int i = dim; i < padded; ++i)
    store_code(side, head, place_of(side, keys, i, token, dim), 0);
}

void rotate(const float* signs, int n, double* x) {
  for (int i = 0; i < n; ++i) x[i] *= signs[i];
  hadamard(n, x);
}

void rotate_back(const float* signs, int n, double* x) {
  hadamard(n, x);
  for (int i = 0; i < n; ++i) x[i] *= signs[i];
}

void scale_channels(const float* scale, std::span<double> x) {
  for (std::size_t i = 0; scale && i < x.size(); ++i) x[i] *= scale[i];
}

void append_head(const KvRows& rows, const KvPages& pages, int head) {
  const KvTransform transform = pages.transform ? *pages.transform : KvTransform{};
  for (int row = 0; row < rows.tokens; ++row) {
    const int page = (rows.first + row) / kPageTokens;
    const int token = (rows.first + row) % kPageTokens;
    const KvLayout& layout = layout_of(pages, page);
    const int dim = layout.head_dim;
    std::byte* at = head_of(pages, page, head);
    const float* k = rows.k + row * rows.k_row_stride + head * rows.k_head_stride;
    const float* v = rows.v + row * rows.v_row_stride + head * rows.v_head_stride;
    Vector x(k, k + dim);
    if (const float* mean = of_head(transform.k_mean, head, dim))
      for (int i = 0; i < dim; ++i) x[static_cast<std::size_t>(i)] -= mean[i];
    scale_channels(of_head(transform.k_scale, head, dim), x);
    if (transform.k_signs) rotate(transform.k_signs, dim, x.data());
    store_row(layout.k, at, true, token, transform, x);
    x.assign(v, v + dim);
    scale_channels(of_head(transform.v_scale, head, dim), x);
    if (transform.v_signs) rotate(transform.v_signs, dim, x.data());
    store_row(layout.v, at, false, token, transform, x);
  }
}

void stored_row(const KvSide& side, const std::byte* head, bool keys, int token,
                const KvTransform& transform, std::span<double> x) {
  if (side.format.kind == KvKind::kTurboQjl)
    return stored_qjl(side, head, token, transform.k_residual_signs, x);
  const int dim = static_cast<int>(x.size());
  for (int i = 0; i < dim; ++i)
    x[static_cast<std::size_t>(i)] = stored_value(side, head, keys, i, token, dim);
}

void read_head(const KvPages& pages, const KvReadArgs& args) {
  const KvTransform stored = pages.transform ? *pages.transform : KvTransform{};
  const KvTransform transform = args.undo_transform ? stored : KvTransform{};
  for (int row = 0; row < args.tokens; ++row) {
    const int page = (args.first + row) / kPageTokens;
    const int token = (args.first + row) % kPageTokens;
    const KvLayout& layout = layout_of(pages, page);
    const int dim = layout.head_dim;
    const std::byte* head = head_of(pages, page, args.head);
    Vector x(static_cast<std::size_t>(dim));
    const auto read = [&](const KvSide& side, bool keys, const float* signs,
                          const float* inverse_scale, const float* mean, float* to) {
      stored_row(side, head, keys, token, stored, x);
      if (signs) rotate_back(signs, dim, x.data());
      scale_channels(inverse_scale, x);
      for (int i = 0; i < dim; ++i)
        to[static_cast<std::int64_t>(row) * dim + i] = static_cast<float>(
            x[static_cast<std::size_t>(i)] + (mean ? mean[i] : 0.0f));
    };
    read(layout.k, true, transform.k_signs, of_head(transform.q_scale, args.head, dim),
         of_head(transform.k_mean, args.head, dim), args.k);
    read(layout.v, false, transform.v_signs,
         of_head(transform.sum_scale, args.head, dim), nullptr, args.v);
  }
}

}  // namespace optiq::kernels::ref
