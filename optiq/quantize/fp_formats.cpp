#include "optiq/quantize/fp_formats.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "optiq/base/parallel.h"
#include "optiq/kernels/fp_values.h"
#include "optiq/quantize/fp_search.h"
#include "optiq/quantize/packing.h"

namespace optiq::quantize {
namespace {

constexpr std::int64_t kNone = std::numeric_limits<std::int64_t>::max();
constexpr int kMaxFpGroup = 32;
using Codes = std::array<std::uint8_t, kMaxFpGroup>;

/// One group's scale byte and the codes of its values.
struct FpGroup {
  std::uint8_t scale = 0;
  Codes codes{};
};

float in_type(float x, FloatType type) {
  if (type == FloatType::kBF16) return bf16_to_float(float_to_bf16(x));
  return type == FloatType::kF16 ? f16_to_float(float_to_f16(x)) : x;
}

double scale_value(QuantMode mode, std::uint8_t code) {
  return mode == QuantMode::kNvfp4 ? e4m3_to_float(code) : e8m0_to_double(code);
}

float element_value(QuantMode mode, std::uint8_t code) {
  return mode == QuantMode::kMxfp8 ? e4m3_to_float(code) : kE2m1Values[code];
}

float largest_element(QuantMode mode) { return mode == QuantMode::kMxfp8 ? 448 : 6; }

/// The first e2m1 code at the least distance from x, distances rounded to `type`: MLX
/// takes an argmin over a table.
std::uint8_t first_nearest_e2m1(float x, FloatType type) {
  int best = 0;
  float least = std::numeric_limits<float>::infinity();
  for (int code = 0; code < 16; ++code) {
    const float distance = std::abs(in_type(x - kE2m1Values[code], type));
    if (distance < least) {
      least = distance;
      best = code;
    }
  }
  return static_cast<std::uint8_t>(best);
}

/// What mx::quantize computes on the CPU, where each operation is rounded to the type
/// of the weights.
FpGroup mlx_group(QuantMode mode, const float* w, int n, FloatType type) {
  float largest = 0;
  for (int i = 0; i < n; ++i) largest = std::max(largest, std::abs(w[i]));
  const float scale = in_type(largest / largest_element(mode), type);
  FpGroup group;
  float divisor = 1;
  FloatType distances = type;
  if (mode == QuantMode::kNvfp4) {
    group.scale = float_to_e4m3(scale);
    divisor = e4m3_to_float(group.scale);
    distances = FloatType::kF32;
  } else {
    int exponent = 0;
    if (scale != 0) exponent = static_cast<int>(std::ceil(std::log2(scale)));
    exponent = std::clamp(exponent, -127, 127);
    group.scale = static_cast<std::uint8_t>(exponent + 127);
    divisor = in_type(std::ldexp(1.0f, exponent), type);
  }
  for (int i = 0; i < n; ++i) {
    const float x = in_type(w[i] / divisor, type);
    group.codes[i] =
        mode == QuantMode::kMxfp8 ? float_to_e4m3(x) : first_nearest_e2m1(x, distances);
  }
  return group;
}

double group_error(QuantMode mode, const float* w, const float* h, int n,
                   const FpGroup& group) {
  const double scale = scale_value(mode, group.scale);
  double sum = 0;
  for (int i = 0; i < n; ++i) {
    const double d = w[i] - scale * element_value(mode, group.codes[i]);
    sum += (h ? h[i] : 1.0) * d * d;
  }
  return sum;
}

FpGroup nearest_group(QuantMode mode, const float* w, int n, std::uint8_t scale) {
  const double inverse = 1 / scale_value(mode, scale);
  FpGroup group{scale, {}};
  for (int i = 0; i < n; ++i) {
    const float x = static_cast<float>(w[i] * inverse);
    group.codes[i] = mode == QuantMode::kMxfp8 ? float_to_e4m3(x) : float_to_e2m1(x);
  }
  return group;
}

/// The best scale byte from `first` to `last`.
std::uint8_t best_scale(QuantMode mode, const float* w, const float* h, int n,
                        int first, int last) {
  alignas(64) float scaled[kMaxFpGroup], weights[kMaxFpGroup];
  float largest = 0, top_weight = 0;
  for (int i = 0; i < n; ++i) {
    largest = std::max(largest, std::abs(w[i]));
    if (h) top_weight = std::max(top_weight, h[i]);
  }
  const int exponent = largest > 0 ? std::clamp(std::ilogb(largest), -126, 126) : 0;
  const float inverse = std::ldexp(1.0f, -exponent);
  for (int i = 0; i < n; ++i) {
    scaled[i] = std::abs(w[i]) * inverse;
    weights[i] = h && top_weight > 0 ? h[i] / top_weight : 1.0f;
  }
  int best = first;
  float least = std::numeric_limits<float>::infinity();
  for (int code = first; code <= last; ++code) {
    const double scale = scale_value(mode, static_cast<std::uint8_t>(code)) *
                         static_cast<double>(inverse);
    const float error = fp_error(mode == QuantMode::kMxfp8, scaled, weights, n,
                                 static_cast<float>(scale));
    if (error < least) {
      least = error;
      best = code;
    }
  }
  return static_cast<std::uint8_t>(best);
}

/// Scale bytes worth trying: an octave either way for powers of two; for e4m3 from 3/5
/// to 4/3 of MLX's, in steps of an eighth of an octave.
std::pair<int, int> candidates(QuantMode mode, std::uint8_t mlx, Search search) {
  const bool thorough = search == Search::kThorough;
  if (mode == QuantMode::kNvfp4)
    return {std::max(1, mlx - (thorough ? 16 : 6)),
            std::clamp(mlx + (thorough ? 8 : 3), 1, 0x7e)};
  return {std::max(0, mlx - (thorough ? 3 : 1)), std::min(254, mlx + 1)};
}

void check(std::span<const float> w, std::int64_t N, std::int64_t K,
           std::span<const float> importance, const QuantSpec& spec) {
  if (N < 0 || K <= 0 || K % spec.group_size != 0 || K * spec.bits % 32 != 0 ||
      K > (1 << 30) || N > (std::int64_t{1} << 31) ||
      w.size() != static_cast<std::uint64_t>(N) * K)
    throw std::invalid_argument(
        fmt::format("[encode_fp] {} weights are not [{}, {}] in groups of {}", w.size(),
                    N, K, spec.group_size));
  if (!importance.empty() && importance.size() != static_cast<std::size_t>(K))
    throw std::invalid_argument(fmt::format(
        "[encode_fp] {} importances for {} channels", importance.size(), K));
  for (std::size_t k = 0; k < importance.size(); ++k)
    if (!(importance[k] >= 0 && std::isfinite(importance[k])))
      throw std::invalid_argument(fmt::format(
          "[encode_fp] importance of channel {} is {}, expected a finite value of at "
          "least 0",
          k, importance[k]));
}

struct RowErrors {
  double ours = 0;
  double mlx = 0;
};

/// Encodes one row; returns the first group that cannot be coded, or -1.
std::int64_t encode_row(std::span<const float> w, std::span<const float> importance,
                        std::int64_t row, const FpOptions& options, EncodedTensor& out,
                        std::vector<std::uint8_t>& codes, RowErrors& errors) {
  const int n = out.spec.group_size;
  std::array<float, kMaxFpGroup> rounded;
  for (std::int64_t g = 0; g < out.groups(); ++g) {
    const float* group = w.data() + row * out.K + g * n;
    const float* h = importance.empty() ? nullptr : importance.data() + g * n;
    bool finite = true, representable = true;
    for (int i = 0; i < n; ++i) {
      rounded[i] = in_type(group[i], options.weight_type);
      finite &= std::isfinite(group[i]);
      representable &= std::isfinite(rounded[i]);
    }
    if (!finite || (!representable && options.search == Search::kMlx)) return g;
    FpGroup best = mlx_group(options.mode, rounded.data(), n, options.weight_type);
    double error = group_error(options.mode, group, h, n, best);
    errors.mlx += error;
    if (options.search != Search::kMlx) {
      const auto [first, last] = candidates(options.mode, best.scale, options.search);
      const FpGroup found = nearest_group(
          options.mode, group, n, best_scale(options.mode, group, h, n, first, last));
      const double found_error = group_error(options.mode, group, h, n, found);
      if (!(error <= found_error)) {
        best = found;
        error = found_error;
      }
    }
    errors.ours += error;
    std::copy_n(best.codes.data(), n, codes.data() + g * n);
    out.scales[row * out.groups() + g] = static_cast<std::byte>(best.scale);
  }
  const std::size_t row_words = static_cast<std::size_t>(out.K) * out.spec.bits / 32;
  pack_codes(codes, out.spec.bits, {out.weight.data() + row * row_words, row_words});
  return -1;
}

}  // namespace

QuantSpec fp_spec(QuantMode mode) {
  if (mode == QuantMode::kAffine)
    throw std::invalid_argument("[fp_spec] affine is not a microscaling format");
  return {mode, info(mode).bits[0], info(mode).group_sizes[0]};
}

EncodedTensor encode_fp(std::span<const float> w, std::int64_t N, std::int64_t K,
                        std::span<const float> importance, const FpOptions& options) {
  EncodedTensor out;
  out.spec = fp_spec(options.mode);
  check(w, N, K, importance, out.spec);
  out.scale_type = options.weight_type;
  out.N = N;
  out.K = K;
  out.weight.resize(static_cast<std::size_t>(N * K * out.spec.bits / 32));
  out.scales.resize(static_cast<std::size_t>(N * out.groups()));

  std::vector<RowErrors> errors(static_cast<std::size_t>(N));
  std::atomic<std::int64_t> bad{kNone};
  parallel_ranges(
      static_cast<std::size_t>(N), 16, [&](std::size_t begin, std::size_t end) {
        std::vector<std::uint8_t> codes(static_cast<std::size_t>(K));
        for (std::size_t row = begin; row < end; ++row) {
          const std::int64_t group =
              encode_row(w, importance, row, options, out, codes, errors[row]);
          const std::int64_t found =
              static_cast<std::int64_t>(row) * out.groups() + group;
          std::int64_t seen = bad.load();
          while (group >= 0 && found < seen &&
                 !bad.compare_exchange_weak(seen, found)) {
          }
        }
      });
  if (bad != kNone)
    throw std::invalid_argument(fmt::format(
        "[encode_fp] row {}, group {} holds a weight that is not finite{}",
        bad / out.groups(), bad % out.groups(),
        options.search == Search::kMlx ? " in the type of the weights" : ""));
  for (const RowErrors& row : errors) {
    out.error += row.ours;
    out.mlx_error += row.mlx;
  }
  return out;
}

std::vector<float> decode_fp(const EncodedTensor& tensor) {
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(tensor.N * tensor.K));
  unpack_codes(tensor.weight, tensor.spec.bits, codes);
  std::vector<float> w(codes.size());
  for (std::size_t i = 0; i < w.size(); ++i) {
    const auto scale =
        std::to_integer<std::uint8_t>(tensor.scales[i / tensor.spec.group_size]);
    w[i] = static_cast<float>(scale_value(tensor.spec.mode, scale) *
                              element_value(tensor.spec.mode, codes[i]));
  }
  return w;
}

}  // namespace optiq::quantize
