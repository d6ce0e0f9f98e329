// With H = (U + I) D (U + I)^T, U strictly upper triangular, and columns rounded from
// first to last, the error is tr(E H E^T) = sum_k D_k |e_k + sum_{j<k} U_jk e_j|^2. So
// column k is best rounded from the target t_k = w_k + sum_{j<k} U_jk e_j, which leaves
// |t_k - q_k|^2 D_k. No inverse of H is needed. Sums over columns of earlier blocks are
// one matrix product per block; inside a block, rows are independent and vectorised.
#include "optiq/quantize/gptq.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "optiq/base/parallel.h"
#include "optiq/quantize/blas.h"
#include "optiq/quantize/cholesky.h"
#include "optiq/quantize/descent.h"
#include "optiq/quantize/packing.h"

namespace optiq::quantize {
namespace {

constexpr std::int64_t kColumns = 128;  // of a block
constexpr std::int64_t kChunk = 128;    // rows that one thread works on, at most
constexpr std::int64_t kSmallChunk = 64;
constexpr int kTurns =
    2;  // of descend(); docs/decisions/rounding.md has what more give

void check_hessian(std::span<const float> H, std::int64_t K) {
  if (K <= 0 || H.size() != static_cast<std::uint64_t>(K) * K)
    throw std::invalid_argument(
        fmt::format("[encode_gptq] {} values are not H [{}, {}]", H.size(), K, K));
  for (std::int64_t i = 0; i < K * K; ++i)
    if (!std::isfinite(H[i]))
      throw std::invalid_argument(
          fmt::format("[encode_gptq] H[{}, {}] is not finite", i / K, i % K));
  for (std::int64_t k = 0; k < K; ++k)
    if (H[k * K + k] < 0)
      throw std::invalid_argument(fmt::format(
          "[encode_gptq] H[{}, {}] is {}, expected at least 0", k, k, H[k * K + k]));
}

std::vector<float> diagonal_of(std::span<const float> H, std::int64_t K) {
  std::vector<float> h(static_cast<std::size_t>(K));
  for (std::int64_t k = 0; k < K; ++k) h[k] = H[k * K + k];
  return h;
}

/// The factor of the reversed matrix, reversed, is upper triangular: with R the
/// reversal, R H R = L L^T gives H = (R L R) (R L R)^T. Reversing rows and columns of a
/// square matrix is reversing its memory.
bool factor(std::span<const float> H, std::int64_t K, double shift,
            const std::vector<std::int64_t>& order, std::vector<float>& m) {
  m.resize(static_cast<std::size_t>(K) * K);
  for (std::int64_t i = 0; i < K; ++i)
    for (std::int64_t j = 0; j < K; ++j) m[i * K + j] = H[order[i] * K + order[j]];
  for (std::int64_t i = 0; i < K; ++i) m[i * K + i] += static_cast<float>(shift);
  std::ranges::reverse(m);
  if (!cholesky(m, K)) return false;
  std::ranges::reverse(m);
  std::vector<float> inverse(static_cast<std::size_t>(K));
  for (std::int64_t k = 0; k < K; ++k) inverse[k] = 1 / m[k * K + k];
  for (std::int64_t i = 0; i < K; ++i)
    for (std::int64_t j = i; j < K; ++j) m[i * K + j] *= inverse[j];
  return std::ranges::all_of(m, [](float x) { return std::isfinite(x); });
}

/// A chunk of rows, stored column by column in the order of rounding.
class Chunk {
 public:
  Chunk(std::span<const float> w, std::int64_t N, const EncodedTensor& tensor,
        const GptqFactor& feedback, std::int64_t first)
      : tensor_(tensor),
        feedback_(feedback),
        K_(tensor.K),
        first_(first),
        rows_(std::min(kChunk, N - first)),
        w_(K_ * rows_),
        error_(K_ * rows_),
        target_(kColumns * rows_),
        code_(K_ * rows_) {
    for (std::int64_t k = 0; k < K_; ++k)
      for (std::int64_t r = 0; r < rows_; ++r)
        w_[k * rows_ + r] = w[(first + r) * K_ + feedback.order[k]];
    const std::int64_t G = tensor.groups();
    scale_.resize(G * rows_);
    bias_.resize(G * rows_);
    for (std::int64_t g = 0; g < G; ++g)
      for (std::int64_t r = 0; r < rows_; ++r) {
        const std::int64_t index = (first + r) * G + g;
        scale_[g * rows_ + r] =
            load_float(tensor.scales.data(), index, tensor.scale_type);
        bias_[g * rows_ + r] =
            load_float(tensor.biases.data(), index, tensor.scale_type);
      }
  }

  void round_all() {
    for (std::int64_t begin = 0; begin < K_; begin += kColumns) {
      const std::int64_t n = std::min(kColumns, K_ - begin);
      std::copy_n(w_.data() + begin * rows_, n * rows_, target_.data());
      if (begin > 0)
        cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, static_cast<int>(n),
                    static_cast<int>(rows_), static_cast<int>(begin), 1,
                    feedback_.unit_upper.data() + begin, static_cast<int>(K_),
                    error_.data(), static_cast<int>(rows_), 1, target_.data(),
                    static_cast<int>(rows_));
      round_block(begin, n);
    }
  }

  std::int64_t rows() const { return rows_; }

  /// w - decoded, and the codes, row by row in the order of the tensor.
  void unpermute(std::vector<float>& difference,
                 std::vector<std::uint8_t>& codes) const {
    difference.resize(w_.size());
    codes.resize(w_.size());
    for (std::int64_t k = 0; k < K_; ++k)
      for (std::int64_t r = 0; r < rows_; ++r) {
        difference[r * K_ + feedback_.order[k]] = error_[k * rows_ + r];
        codes[r * K_ + feedback_.order[k]] = code_[k * rows_ + r];
      }
  }

 private:
  void round_block(std::int64_t begin, std::int64_t n) {
    const float top = static_cast<float>((1 << tensor_.spec.bits) - 1);
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int64_t k = begin + i;
      float* target = target_.data() + i * rows_;
      for (std::int64_t j = 0; j < i; ++j) {
        const float u = feedback_.unit_upper[(begin + j) * K_ + k];
        const float* error = error_.data() + (begin + j) * rows_;
        for (std::int64_t r = 0; r < rows_; ++r) target[r] += u * error[r];
      }
      const std::int64_t group = feedback_.order[k] / tensor_.spec.group_size;
      const float* scale = scale_.data() + group * rows_;
      const float* bias = bias_.data() + group * rows_;
      const float* w = w_.data() + k * rows_;
      float* error = error_.data() + k * rows_;
      std::uint8_t* code = code_.data() + k * rows_;
      for (std::int64_t r = 0; r < rows_; ++r) {
        const float x = (target[r] - bias[r]) / scale[r];
        // Comparisons with NaN (a scale of zero) are false: the code is 0.
        const float inside = x > 0 ? (x < top ? x : top) : 0;
        const float q = (inside + 12582912.0f) - 12582912.0f;  // to the nearest integer
        error[r] = w[r] - (scale[r] * q + bias[r]);
        code[r] = static_cast<std::uint8_t>(q);
      }
    }
  }

  const EncodedTensor& tensor_;
  const GptqFactor& feedback_;
  std::int64_t K_, first_, rows_;
  std::vector<float> w_, error_, target_;  // [K, rows], [K, rows], [kColumns, rows]
  std::vector<std::uint8_t> code_;         // [K, rows]
  std::vector<float> scale_, bias_;        // [groups, rows]
};

/// Calls f(first row, rows) for each chunk of N rows, on all threads, and adds up what
/// it returns, in the order of the rows.
template <class F>
double sum_over_chunks(std::int64_t N, F&& f) {
  // Some for every thread, if there are so many rows.
  const std::int64_t share =
      N / std::max(1, thread_count()) / kSmallChunk * kSmallChunk;
  const std::int64_t chunk = std::clamp(share, kSmallChunk, kChunk);
  const std::int64_t chunks = (N + chunk - 1) / chunk;
  std::vector<double> sums(static_cast<std::size_t>(chunks));
  const SingleThreadedBlas single;
  parallel_for(sums.size(), [&](std::size_t i) {
    const auto first = static_cast<std::int64_t>(i) * chunk;
    sums[i] = f(first, std::min(chunk, N - first));
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

/// d H d^T for each row of D.
std::vector<double> row_errors(std::span<const float> difference, std::int64_t N,
                               std::int64_t K, std::span<const float> H) {
  std::vector<float> product(static_cast<std::size_t>(N * K));
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, static_cast<int>(N),
              static_cast<int>(K), static_cast<int>(K), 1, difference.data(),
              static_cast<int>(K), H.data(), static_cast<int>(K), 0, product.data(),
              static_cast<int>(K));
  std::vector<double> errors(static_cast<std::size_t>(N));
  for (std::int64_t n = 0; n < N; ++n)
    for (std::int64_t k = 0; k < K; ++k)
      errors[n] += static_cast<double>(difference[n * K + k]) * product[n * K + k];
  return errors;
}

/// Rows [first, first + rows) of an affine tensor, decoded, taken from w.
std::vector<float> difference_of_rows(std::span<const float> w,
                                      const EncodedTensor& tensor, std::int64_t first,
                                      std::int64_t rows) {
  const std::int64_t K = tensor.K, size = tensor.spec.group_size;
  const std::size_t words = static_cast<std::size_t>(K) * tensor.spec.bits / 32;
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(rows * K));
  unpack_codes({tensor.weight.data() + first * words, rows * words}, tensor.spec.bits,
               codes);
  std::vector<float> difference(codes.size());
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t k = 0; k < K; ++k) {
      const std::int64_t index = (first + r) * tensor.groups() + k / size;
      difference[r * K + k] =
          w[(first + r) * K + k] -
          (load_float(tensor.scales.data(), index, tensor.scale_type) *
               codes[r * K + k] +
           load_float(tensor.biases.data(), index, tensor.scale_type));
    }
  return difference;
}

}  // namespace

double output_error(std::span<const float> difference, std::int64_t N, std::int64_t K,
                    std::span<const float> H) {
  if (N < 0 || K <= 0 || difference.size() != static_cast<std::uint64_t>(N) * K ||
      H.size() != static_cast<std::uint64_t>(K) * K)
    throw std::invalid_argument(
        fmt::format("[output_error] {} differences and {} values of H are not [{}, {}] "
                    "and [{}, {}]",
                    difference.size(), H.size(), N, K, K, K));
  return sum_over_chunks(N, [&](std::int64_t first, std::int64_t rows) {
    const auto errors = row_errors(difference.subspan(first * K, rows * K), rows, K, H);
    return std::accumulate(errors.begin(), errors.end(), 0.0);
  });
}

GptqFactor::GptqFactor(std::span<const float> moments, std::int64_t inputs,
                       double damping_share)
    : H(moments), K(inputs), asked_damping(damping_share) {
  check_hessian(H, K);
  diagonal = diagonal_of(H, K);
  order.resize(static_cast<std::size_t>(K));
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(
      order, [&](std::int64_t a, std::int64_t b) { return diagonal[a] > diagonal[b]; });
  const double mean =
      std::accumulate(diagonal.begin(), diagonal.end(), 0.0) / static_cast<double>(K);
  for (double share = std::max(asked_damping, 1e-6); mean > 0 && share <= 10;
       share *= 10) {
    if (!factor(H, K, share * mean, order, unit_upper)) continue;
    damping = share;
    damped.assign(H.begin(), H.end());
    for (std::int64_t k = 0; k < K; ++k)
      damped[k * K + k] += static_cast<float>(damping * mean);
    return;
  }
  unit_upper.clear();
}

GptqResult encode_gptq(std::span<const float> w, std::int64_t N, std::int64_t K,
                       std::span<const float> H, const GptqOptions& options) {
  return encode_gptq(w, N, GptqFactor(H, K, options.damping), options.affine);
}

GptqResult encode_gptq(std::span<const float> w, std::int64_t N,
                       const GptqFactor& feedback, const AffineOptions& options) {
  const std::int64_t K = feedback.K;
  const std::span<const float> H = feedback.H;
  GptqResult result;
  result.tensor = encode_affine(
      w, N, K, floored(feedback.diagonal, feedback.asked_damping), options);
  result.damping = feedback.damping;

  const std::size_t words = static_cast<std::size_t>(K) * options.bits / 32;
  std::atomic<std::int64_t> compensated_rows = 0;
  std::vector<double> searched_errors(static_cast<std::size_t>(N));
  result.output_error = sum_over_chunks(N, [&](std::int64_t first, std::int64_t rows) {
    const auto searched =
        row_errors(difference_of_rows(w, result.tensor, first, rows), rows, K, H);
    std::ranges::copy(searched, searched_errors.begin() + first);
    if (feedback.unit_upper.empty())
      return std::accumulate(searched.begin(), searched.end(), 0.0);
    std::vector<float> difference;
    std::vector<std::uint8_t> codes;
    Chunk chunk(w, N, result.tensor, feedback, first);
    chunk.round_all();
    chunk.unpermute(difference, codes);
    const auto compensated = row_errors(difference, rows, K, H);
    double sum = 0;
    for (std::int64_t r = 0; r < rows; ++r) {
      const bool better = compensated[r] < searched[r];
      sum += better ? compensated[r] : searched[r];
      if (!better) continue;
      ++compensated_rows;
      pack_codes({codes.data() + r * K, static_cast<std::size_t>(K)}, options.bits,
                 {result.tensor.weight.data() + (first + r) * words, words});
    }
    return sum;
  });
  result.compensated_rows = compensated_rows;
  result.searched_output_error =
      std::accumulate(searched_errors.begin(), searched_errors.end(), 0.0);
  if (feedback.unit_upper.empty()) return result;
  EncodedTensor better = result.tensor;
  descend(w, feedback.damped, kTurns, better);
  const double error = sum_over_chunks(N, [&](std::int64_t first, std::int64_t rows) {
    const auto of_rows =
        row_errors(difference_of_rows(w, better, first, rows), rows, K, H);
    return std::accumulate(of_rows.begin(), of_rows.end(), 0.0);
  });
  if (error < result.output_error) {
    result.output_error = error;
    result.tensor = std::move(better);
  }
  return result;
}

}  // namespace optiq::quantize
