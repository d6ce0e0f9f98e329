#include "optiq/quantize/affine.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "optiq/base/parallel.h"
#include "optiq/quantize/affine_search.h"
#include "optiq/quantize/packing.h"
#include "optiq/quantize/stored_float.h"

namespace optiq::quantize {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int kRows = kSearchLanes;

/// One group's scale and bias, as MLX computes them in float32.
struct Affine {
  float scale;
  float bias;
};

/// The extreme of larger magnitude is kept exactly, and so is zero: the scale is
/// stretched until a code falls on it.
Affine mlx_affine(const float* w, int n, float max_code) {
  float low = kInfinity, high = -kInfinity;
  for (int i = 0; i < n; ++i) {
    low = std::min(low, w[i]);
    high = std::max(high, w[i]);
  }
  const bool low_is_edge = std::abs(low) > std::abs(high);
  float scale = std::max((high - low) / max_code, 1e-7f);
  if (!low_is_edge) scale = -scale;
  const float edge = low_is_edge ? low : high;
  const float steps = std::rint(edge / scale);
  if (steps == 0) return {scale, 0.0f};
  return {edge / steps, edge};
}

/// As many rows as the search has lanes, on their way from floats to codes.
class RowEncoder {
 public:
  RowEncoder(std::span<const float> w, std::span<const float> importance,
             const AffineOptions& options, EncodedTensor& out)
      : w_(w),
        importance_(importance),
        options_(options),
        out_(out),
        max_code_(static_cast<float>((1 << options.bits) - 1)),
        codes_(kRows * static_cast<std::size_t>(out.K)) {}

  /// Encodes rows [first, first + n). Returns the first bad group's index, or -1.
  std::int64_t encode(std::int64_t first, int n) {
    for (std::int64_t group = 0; group < out_.groups(); ++group)
      for (int lane = 0; lane < n; ++lane)
        if (!prepare(first + lane, group, lane))
          return (first + lane) * out_.groups() + group;
    for (std::int64_t group = 0; group < out_.groups(); ++group)
      encode_group(first, n, group);
    const std::size_t row_words = static_cast<std::size_t>(out_.K) * options_.bits / 32;
    for (int lane = 0; lane < n; ++lane)
      pack_codes({codes_.data() + lane * out_.K, static_cast<std::size_t>(out_.K)},
                 options_.bits,
                 {out_.weight.data() + (first + lane) * row_words, row_words});
    return -1;
  }

  double error() const { return error_; }
  double mlx_error() const { return mlx_error_; }

 private:
  const float* group_weights(std::int64_t row, std::int64_t group) const {
    return w_.data() + row * out_.K + group * options_.group_size;
  }

  /// Whether the group can be coded: finite, for kMlx also in the stored type.
  bool prepare(std::int64_t row, std::int64_t group, int) const {
    const float* w = group_weights(row, group);
    float largest = 0;
    bool ordered = true;
    for (int i = 0; i < options_.group_size; ++i) {
      ordered &= w[i] == w[i];
      largest = std::max(largest, std::abs(w[i]));
    }
    if (options_.search == Search::kMlx) largest = stored(largest, options_.scale_type);
    return ordered && largest < kInfinity;
  }

  void encode_group(std::int64_t first, int n, std::int64_t group) {
    const int size = options_.group_size;
    load_importance(group);
    for (int lane = 0; lane < n; ++lane) {
      const float* w = group_weights(first + lane, group);
      round_to(options_.scale_type, w, size, rounded_.data());
      mlx_[lane] = mlx_affine(rounded_.data(), size, max_code_);
      nearest_codes(rounded_.data(), size, mlx_[lane].scale, mlx_[lane].bias, max_code_,
                    mlx_codes_[lane].data());
      start_.scale[lane] = stored(mlx_[lane].scale, options_.scale_type);
      start_.bias[lane] = stored(mlx_[lane].bias, options_.scale_type);
    }
    if (options_.search != Search::kMlx) search(first, n, group);
    for (int lane = 0; lane < n; ++lane) choose(first + lane, group, lane);
  }

  /// The group's importances, divided by their largest.
  void load_importance(std::int64_t group) {
    const int size = options_.group_size;
    importance_unit_ = 1;
    if (importance_.empty()) {
      std::fill_n(block_.h, size, 1.0f);
      return;
    }
    const float* h = importance_.data() + group * size;
    const float largest = *std::max_element(h, h + size);
    if (largest > 0) importance_unit_ = largest;
    for (int i = 0; i < size; ++i)
      block_.h[i] = static_cast<float>(h[i] / importance_unit_);
  }

  void search(std::int64_t first, int n, std::int64_t group) {
    const int size = options_.group_size;
    block_.group_size = size;
    block_.max_code = max_code_;
    block_.scale_type = options_.scale_type;
    block_.thorough = options_.search == Search::kThorough;
    for (int lane = 0; lane < kRows; ++lane) {
      const int source = std::min(lane, n - 1);  // spare lanes repeat the last row
      const float* w = group_weights(first + source, group);
      float largest = 0;
      for (int i = 0; i < size; ++i) largest = std::max(largest, std::abs(w[i]));
      const int exponent = largest > 0 ? std::clamp(std::ilogb(largest), -126, 126) : 0;
      const float inverse = std::ldexp(1.0f, -exponent);
      block_.unit[lane] = std::ldexp(1.0f, exponent);
      for (int i = 0; i < size; ++i) block_.w[i][lane] = w[i] * inverse;
      start_.scale[lane] = start_.scale[source];
      start_.bias[lane] = start_.bias[source];
    }
    search_scales(block_, start_, found_);
  }

  void choose(std::int64_t row, std::int64_t group, int lane) {
    const int size = options_.group_size;
    const float* w = group_weights(row, group);
    std::uint8_t* codes = codes_.data() + lane * out_.K + group * size;
    const double mlx_error = weighted_error(w, block_.h, size, start_.scale[lane],
                                            start_.bias[lane], mlx_codes_[lane].data());
    mlx_error_ += (std::isfinite(mlx_error) ? mlx_error : kInfinity) * importance_unit_;
    float scale = start_.scale[lane], bias = start_.bias[lane];
    double error = mlx_error;
    bool better = false;
    if (options_.search != Search::kMlx) {
      nearest_codes(w, size, found_.scale[lane], found_.bias[lane], max_code_, codes);
      const double found = weighted_error(w, block_.h, size, found_.scale[lane],
                                          found_.bias[lane], codes);
      better = !(mlx_error <= found);
      if (better) {
        error = found;
        scale = found_.scale[lane];
        bias = found_.bias[lane];
      }
    }
    if (!better) std::copy_n(mlx_codes_[lane].data(), size, codes);
    error_ += error * importance_unit_;
    const std::int64_t index = row * out_.groups() + group;
    store(out_.scales, index, scale, options_.scale_type);
    store(out_.biases, index, bias, options_.scale_type);
  }

  std::span<const float> w_;
  std::span<const float> importance_;
  const AffineOptions& options_;
  EncodedTensor& out_;
  float max_code_;
  std::vector<std::uint8_t> codes_;  // [kRows, K]
  double error_ = 0;
  double mlx_error_ = 0;
  double importance_unit_ = 1;
  SearchBlock block_;
  ScalesAndBiases start_, found_;
  std::array<Affine, kRows> mlx_;
  std::array<std::array<std::uint8_t, kMaxGroupSize>, kRows> mlx_codes_;
  alignas(64) std::array<float, kMaxGroupSize> rounded_;
};

void check_importance(std::span<const float> importance) {
  for (std::size_t k = 0; k < importance.size(); ++k)
    if (!(importance[k] >= 0 && importance[k] < kInfinity))
      throw std::invalid_argument(fmt::format(
          "[encode_affine] importance of channel {} is {}, expected a finite "
          "value of at least 0",
          k, importance[k]));
}

void check(std::span<const float> w, std::int64_t N, std::int64_t K,
           std::span<const float> importance, const AffineOptions& options) {
  const QuantSpec spec{QuantMode::kAffine, options.bits, options.group_size};
  if (!is_supported(spec))
    throw std::invalid_argument(
        fmt::format("[encode_affine] no such format: {}", describe(spec)));
  if (N < 0 || K <= 0 || K % options.group_size != 0 || K > (1 << 30) ||
      N > (std::int64_t{1} << 31) || w.size() != static_cast<std::uint64_t>(N) * K)
    throw std::invalid_argument(
        fmt::format("[encode_affine] {} weights are not [{}, {}] in groups of {}",
                    w.size(), N, K, options.group_size));
  if (!importance.empty() && importance.size() != static_cast<std::size_t>(K))
    throw std::invalid_argument(fmt::format(
        "[encode_affine] {} importances for {} channels", importance.size(), K));
  check_importance(importance);
}

}  // namespace

EncodedTensor encode_affine(std::span<const float> w, std::int64_t N, std::int64_t K,
                            std::span<const float> importance,
                            const AffineOptions& options) {
  check(w, N, K, importance, options);
  EncodedTensor out;
  out.spec = {QuantMode::kAffine, options.bits, options.group_size};
  out.scale_type = options.scale_type;
  out.N = N;
  out.K = K;
  out.weight.resize(static_cast<std::size_t>(N * K * options.bits / 32));
  out.scales.resize(static_cast<std::size_t>(N * out.groups()) *
                    size_of(options.scale_type));
  out.biases.resize(out.scales.size());

  const std::size_t n_blocks = static_cast<std::size_t>((N + kRows - 1) / kRows);
  std::vector<double> errors(n_blocks), mlx_errors(n_blocks);
  std::atomic<std::int64_t> bad{std::numeric_limits<std::int64_t>::max()};
  parallel_for(n_blocks, [&](std::size_t block) {
    const std::int64_t first = static_cast<std::int64_t>(block) * kRows;
    RowEncoder encoder(w, importance, options, out);
    const std::int64_t found = encoder.encode(
        first, static_cast<int>(std::min<std::int64_t>(kRows, N - first)));
    errors[block] = encoder.error();
    mlx_errors[block] = encoder.mlx_error();
    std::int64_t seen = bad.load();
    while (found >= 0 && found < seen && !bad.compare_exchange_weak(seen, found)) {
    }
  });
  if (bad != std::numeric_limits<std::int64_t>::max())
    throw std::invalid_argument(fmt::format(
        "[encode_affine] row {}, group {} holds a weight that is not finite{}",
        bad / out.groups(), bad % out.groups(),
        options.search == Search::kMlx ? " in the stored type" : ""));
  for (std::size_t block = 0; block < n_blocks; ++block) {
    out.error += errors[block];
    out.mlx_error += mlx_errors[block];
  }
  return out;
}

std::vector<float> decode_affine(const EncodedTensor& tensor) {
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(tensor.N * tensor.K));
  unpack_codes(tensor.weight, tensor.spec.bits, codes);
  std::vector<float> w(codes.size());
  const std::int64_t size = tensor.spec.group_size;
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(w.size()); ++i)
    w[i] = load_float(tensor.scales.data(), i / size, tensor.scale_type) * codes[i] +
           load_float(tensor.biases.data(), i / size, tensor.scale_type);
  return w;
}

std::vector<float> floored(std::span<const float> importance, double fraction) {
  check_importance(importance);
  double sum = 0;
  for (float h : importance) sum += h;
  const float floor =
      importance.empty() ? 0 : static_cast<float>(fraction * sum / importance.size());
  std::vector<float> result(importance.begin(), importance.end());
  for (float& h : result) h = std::max(h, floor);
  return result;
}

}  // namespace optiq::quantize
