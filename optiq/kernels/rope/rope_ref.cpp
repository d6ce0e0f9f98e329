#include <cmath>
#include <vector>

#include "optiq/kernels/rope/rope.h"

namespace optiq::kernels::ref {
namespace {

void rotate(const RopeArgs& a, const RopeHeads& heads, std::int64_t row,
            const std::vector<double>& cosine, const std::vector<double>& sine) {
  for (int head = 0; head < heads.n_heads; ++head) {
    const float* x = heads.x + row * heads.row_stride + head * heads.head_stride;
    float* y = heads.y + (row * heads.n_heads + head) * a.head_dim;
    std::vector<double> value(x, x + a.head_dim);
    if (heads.norm) {
      double squares = 0;
      for (double v : value) squares += v * v;
      const double inverse = 1 / std::sqrt(squares / a.head_dim + a.eps);
      for (std::size_t i = 0; i < value.size(); ++i)
        value[i] *= inverse * heads.norm[i];
    }
    const auto f = static_cast<std::size_t>(a.n_frequencies);
    for (std::size_t i = 0; i < f; ++i) {
      const double low = value[i], high = value[i + f];
      value[i] = cosine[i] * low - sine[i] * high;
      value[i + f] = cosine[i] * high + sine[i] * low;
    }
    for (std::size_t i = 0; i < value.size(); ++i) y[i] = static_cast<float>(value[i]);
  }
}

}  // namespace

void rope_rows(const RopeArgs& a, std::int64_t begin, std::int64_t end) {
  std::vector<double> cosine(static_cast<std::size_t>(a.n_frequencies));
  std::vector<double> sine(cosine.size());
  for (std::int64_t row = begin; row < end; ++row) {
    const float* frequencies = a.long_rows && a.long_rows[row]
                                   ? a.long_inverse_frequency
                                   : a.inverse_frequency;
    for (std::size_t i = 0; i < cosine.size(); ++i) {
      const float angle = static_cast<float>(a.positions[row]) * frequencies[i];
      cosine[i] = a.scale * std::cos(static_cast<double>(angle));
      sine[i] = a.scale * std::sin(static_cast<double>(angle));
    }
    rotate(a, a.q, row, cosine, sine);
    rotate(a, a.k, row, cosine, sine);
  }
}

}  // namespace optiq::kernels::ref
