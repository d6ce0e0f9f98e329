// Second moments of a matrix's inputs, gathered call by call.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "mlx/array.h"

namespace optiq::quantize {

/// sum x x^T over input rows x, [K, K], symmetric: H of encode_gptq.
class Moments {
 public:
  explicit Moments(int K);

  /// Shapes    x [T, K], float32
  /// Threads   those of BLAS
  /// Cost      T K^2 / 2 multiply-adds
  void add(const mlx::core::array& x);

  /// Adds so many times what `other` has summed, as if it were that share of its rows.
  void add(const Moments& other, double times);

  std::span<const float> sum() const;  // until the next add()
  double rows() const { return rows_; }

 private:
  std::int64_t K_;
  double rows_ = 0;
  mutable std::vector<float> sum_;  // the upper half, and the lower once it is whole
  mutable bool whole_ = true;
};

}  // namespace optiq::quantize
