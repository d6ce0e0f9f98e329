// Of a row with error e = w - decoded, the error form is e H e^T and r = e H half its
// gradient. Code k is best at the value that makes e_k smaller by r_k / H_kk, rounded;
// a change of e_k by d adds d H_k to r. Changing a group's scale and bias by s and z
// changes its e by -(s q + z): the best of both solve a system of two equations.
#include "optiq/quantize/descent.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "optiq/base/parallel.h"
#include "optiq/quantize/blas.h"
#include "optiq/quantize/packing.h"
#include "optiq/quantize/stored_float.h"

namespace optiq::quantize {
namespace {

constexpr std::int64_t kRows = 32;  // that share a pass over H

// The loops that all the time goes to, compiled for several instruction sets; the one
// that fits is chosen when the program is loaded.
#if defined(__x86_64__) && defined(__linux__)
#define OPTIQ_CLONES \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define OPTIQ_CLONES
#endif

OPTIQ_CLONES void add_multiple(float* to, const float* from, float by, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) to[i] += by * from[i];
}

struct Products {
  float with_codes, with_ones;
};

// sum_j h_j q_j and sum_j h_j; n a multiple of 32.
OPTIQ_CLONES Products products(const float* h, const std::uint8_t* q, std::int64_t n) {
  float with_codes[32] = {}, with_ones[32] = {};
  for (std::int64_t j = 0; j < n; j += 32)
    for (int lane = 0; lane < 32; ++lane) {
      with_codes[lane] += h[j + lane] * static_cast<float>(q[j + lane]);
      with_ones[lane] += h[j + lane];
    }
  Products sums{};
  for (int lane = 0; lane < 32; ++lane) {
    sums.with_codes += with_codes[lane];
    sums.with_ones += with_ones[lane];
  }
  return sums;
}

double dot(const float* a, const float* b, std::int64_t n) {
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

/// A few rows of the tensor, decoded.
class Rows {
 public:
  /// Of `error` and `slope` [count, K] the first is filled.
  Rows(std::span<const float> w, std::span<const float> H, EncodedTensor& tensor,
       std::int64_t first, std::int64_t count, float* error, float* slope)
      : H_(H),
        tensor_(tensor),
        first_(first),
        count_(count),
        K_(tensor.K),
        group_(tensor.spec.group_size),
        codes_(static_cast<std::size_t>(count * K_)),
        error_(error),
        slope_(slope) {
    unpack_codes(words(), tensor.spec.bits, codes_);
    for (std::int64_t r = 0; r < count; ++r)
      for (std::int64_t k = 0; k < K_; ++k)
        error_[at(r, k)] = w[at(first_ + r, k)] - decoded(r, k);
  }

  double error() const {
    double sum = 0;
    for (std::int64_t r = 0; r < count_; ++r)
      sum += dot(error_ + r * K_, slope_ + r * K_, K_);
    return sum;
  }

  // Each code once. True if one has changed.
  bool improve_codes() {
    const float top = static_cast<float>((1 << tensor_.spec.bits) - 1);
    bool changed = false;
    for (std::int64_t k = 0; k < K_; ++k) {
      const float* h = H_.data() + k * K_;
      for (std::int64_t r = 0; r < count_; ++r) {
        const float scale = scale_of(r, k), code = codes_[at(r, k)];
        if (scale == 0) continue;
        const float wish = code + slope_[at(r, k)] / (h[k] * scale);
        const float best = std::clamp(std::nearbyint(wish), 0.0f, top);
        // Half a code and a little: sums in float are not exact.
        if (best == code || std::abs(wish - code) < 0.5001f) continue;
        const float by = scale * (code - best);
        codes_[at(r, k)] = static_cast<std::uint8_t>(best);
        error_[at(r, k)] += by;
        add_multiple(slope_ + r * K_, h, by, K_);
        changed = true;
      }
    }
    return changed;
  }

  // Each group's scale and bias once. True if one has changed.
  bool improve_scales() {
    bool changed = false;
    for (std::int64_t g = 0; g < K_ / group_; ++g)
      for (std::int64_t r = 0; r < count_; ++r) changed |= improve_scale(r, g);
    return changed;
  }

  void put_back() { pack_codes(codes_, tensor_.spec.bits, words()); }

 private:
  std::size_t at(std::int64_t r, std::int64_t k) const {
    return static_cast<std::size_t>(r * K_ + k);
  }
  std::span<std::uint32_t> words() {
    const auto of_row = static_cast<std::size_t>(K_) * tensor_.spec.bits / 32;
    return std::span(tensor_.weight)
        .subspan(static_cast<std::size_t>(first_) * of_row,
                 static_cast<std::size_t>(count_) * of_row);
  }
  std::int64_t group_index(std::int64_t r, std::int64_t g) const {
    return (first_ + r) * tensor_.groups() + g;
  }
  float scale_of(std::int64_t r, std::int64_t k) const {
    return load_float(tensor_.scales.data(), group_index(r, k / group_),
                      tensor_.scale_type);
  }
  float decoded(std::int64_t r, std::int64_t k) const {
    return scale_of(r, k) * codes_[at(r, k)] + load_float(tensor_.biases.data(),
                                                          group_index(r, k / group_),
                                                          tensor_.scale_type);
  }

  bool improve_scale(std::int64_t r, std::int64_t g) {
    const std::int64_t begin = g * group_, index = group_index(r, g);
    const std::uint8_t* q = codes_.data() + at(r, begin);
    const float* slope = slope_ + at(r, begin);
    // q H q, q H 1, 1 H 1 and q r, 1 r over the group.
    double qq = 0, q1 = 0, one = 0, q_slope = 0, slope_sum = 0;
    for (std::int64_t i = 0; i < group_; ++i) {
      const float* h = H_.data() + (begin + i) * K_ + begin;
      const auto [hq, h1] = products(h, q, group_);
      qq += static_cast<double>(q[i]) * hq;
      q1 += static_cast<double>(q[i]) * h1;
      one += h1;
      q_slope += static_cast<double>(q[i]) * slope[i];
      slope_sum += slope[i];
    }
    const double determinant = qq * one - q1 * q1;
    if (!(determinant > 1e-9 * qq * one)) return false;
    const float scale = load_float(tensor_.scales.data(), index, tensor_.scale_type);
    const float bias = load_float(tensor_.biases.data(), index, tensor_.scale_type);
    // The scale first; the bias then fits the scale as it is stored.
    const double wished =
        static_cast<double>(scale) + (q_slope * one - slope_sum * q1) / determinant;
    const float new_scale = stored(static_cast<float>(wished), tensor_.scale_type);
    const double scale_step = static_cast<double>(new_scale) - scale;
    const float new_bias =
        stored(static_cast<float>(bias + (slope_sum - scale_step * q1) / one),
               tensor_.scale_type);
    if (!std::isfinite(new_scale) || !std::isfinite(new_bias) || new_scale == 0)
      return false;
    const double bias_step = static_cast<double>(new_bias) - bias;
    const double gain = 2 * (scale_step * q_slope + bias_step * slope_sum) -
                        (scale_step * scale_step * qq +
                         2 * scale_step * bias_step * q1 + bias_step * bias_step * one);
    if (!(gain > 1e-6 * std::abs(qq * scale * scale))) return false;
    for (std::int64_t i = 0; i < group_; ++i) {
      const float before = scale * static_cast<float>(q[i]) + bias;
      const float by = before - (new_scale * static_cast<float>(q[i]) + new_bias);
      error_[at(r, begin + i)] += by;
      add_multiple(slope_ + r * K_, H_.data() + (begin + i) * K_, by, K_);
    }
    store(tensor_.scales, index, new_scale, tensor_.scale_type);
    store(tensor_.biases, index, new_bias, tensor_.scale_type);
    return true;
  }

  std::span<const float> H_;
  EncodedTensor& tensor_;
  std::int64_t first_, count_, K_, group_;
  std::vector<std::uint8_t> codes_;  // [count, K]
  float* error_;                     // w - decoded, [count, K]
  float* slope_;                     // error H, [count, K]
};

}  // namespace

double descend(std::span<const float> w, std::span<const float> H, int turns,
               EncodedTensor& tensor) {
  const std::int64_t K = tensor.K;
  std::vector<double> gains(static_cast<std::size_t>((tensor.N + kRows - 1) / kRows));
  const SingleThreadedBlas single;
  parallel_for(gains.size(), [&](std::size_t i) {
    const auto first = static_cast<std::int64_t>(i) * kRows;
    const std::int64_t n = std::min(kRows, tensor.N - first);
    std::vector<float> error(static_cast<std::size_t>(n * K)), slope(error.size());
    Rows rows(w, H, tensor, first, n, error.data(), slope.data());
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, static_cast<int>(n),
                static_cast<int>(K), static_cast<int>(K), 1, error.data(),
                static_cast<int>(K), H.data(), static_cast<int>(K), 0, slope.data(),
                static_cast<int>(K));
    const double before = rows.error();
    for (int turn = 0; turn < turns; ++turn) {
      const bool scales = rows.improve_scales();
      const bool codes = rows.improve_codes();
      if (!scales && !codes) break;
    }
    rows.put_back();
    gains[i] = before - rows.error();
  });
  return std::accumulate(gains.begin(), gains.end(), 0.0);
}

}  // namespace optiq::quantize
