#include "optiq/quantize/moments.h"

#include <algorithm>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/base/error.h"
#include "optiq/quantize/blas.h"

namespace optiq::quantize {

namespace mx = mlx::core;

Moments::Moments(int K) : K_(K), sum_(static_cast<std::size_t>(K_ * K_)) {}

void Moments::add(const mx::array& x) {
  OPTIQ_CHECK(x.ndim() == 2 && x.shape(1) == K_, "moments of inputs of another width");
  mx::array rows = mx::contiguous(mx::astype(x, mx::float32));
  mx::eval(rows);
  const int K = static_cast<int>(K_);
  cblas_ssyrk(CblasRowMajor, CblasUpper, CblasTrans, K, rows.shape(0), 1,
              rows.data<float>(), K, 1, sum_.data(), K);
  rows_ += rows.shape(0);
  whole_ = false;
}

void Moments::add(const Moments& other, double times) {
  OPTIQ_CHECK(other.K_ == K_, "moments of inputs of another width");
  cblas_saxpy(static_cast<int>(K_ * K_), static_cast<float>(times), other.sum().data(),
              1, sum_.data(), 1);
  rows_ += times * other.rows_;
  whole_ = false;
}

std::span<const float> Moments::sum() const {
  // In squares that stay in the cache: one side of the copy goes down columns.
  constexpr std::int64_t kSide = 32;
  for (std::int64_t top = 0; top < K_ && !whole_; top += kSide)
    for (std::int64_t left = 0; left <= top; left += kSide)
      for (std::int64_t i = top; i < std::min(top + kSide, K_); ++i)
        for (std::int64_t j = left; j < std::min(left + kSide, i); ++j)
          sum_[static_cast<std::size_t>(i * K_ + j)] =
              sum_[static_cast<std::size_t>(j * K_ + i)];
  whole_ = true;
  return sum_;
}

}  // namespace optiq::quantize
