#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "optiq/kernels/linear/kernel_table.h"
#include "optiq/kernels/linear/linear.h"
#include "optiq/kernels/linear/micro_float.h"

namespace optiq::kernels::ref {
namespace {

std::uint32_t code_at(const MatrixView& w, int n, int k) {
  const auto* row = static_cast<const std::uint8_t*>(w.weight) + n * w.row_bytes();
  const std::int64_t bit = static_cast<std::int64_t>(k) * w.spec.bits;
  std::uint32_t window = row[bit / 8];
  if (bit % 8 + w.spec.bits > 8) window |= std::uint32_t{row[bit / 8 + 1]} << 8;
  return (window >> (bit % 8)) & ((1u << w.spec.bits) - 1);
}

struct Group {
  float scale, bias;
};

Group group_at(const MatrixView& w, int n, int g) {
  const std::int64_t i = static_cast<std::int64_t>(n) * w.groups() + g;
  if (w.spec.mode == QuantMode::kAffine)
    return {load_float(w.scales, i, w.type), load_float(w.biases, i, w.type)};
  const std::uint8_t scale = static_cast<const std::uint8_t*>(w.scales)[i];
  return {
      w.spec.mode == QuantMode::kNvfp4 ? e4m3_to_float(scale) : e8m0_to_float(scale),
      0};
}

float add_bias_and_residual(const Product& p, int m, int n, float sum) {
  if (p.bias) sum += load_float(p.bias, n, p.bias_type);
  if (p.residual) sum += p.residual[static_cast<std::int64_t>(m) * p.w.N + n];
  return sum;
}

}  // namespace

float weight_at(const MatrixView& w, int n, int k) {
  if (!w.quantized()) return load_float(w.weight, std::int64_t{n} * w.K + k, w.type);
  const Group group = group_at(w, n, k / w.spec.group_size);
  const std::uint32_t code = code_at(w, n, k);
  switch (w.spec.mode) {
    case QuantMode::kAffine:
      return std::fmaf(group.scale, static_cast<float>(code), group.bias);
    case QuantMode::kMxfp8:
      return group.scale * e4m3_to_float(static_cast<std::uint8_t>(code));
    default:
      return group.scale * e2m1_to_float(code);
  }
}

void linear_exact(const float* x, int M, int K, const Product& p) {
  std::vector<float> row(static_cast<std::size_t>(K));
  for (int n = 0; n < p.w.N; ++n) {
    for (int k = 0; k < K; ++k) row[static_cast<std::size_t>(k)] = weight_at(p.w, n, k);
    for (int m = 0; m < M; ++m) {
      const float* xm = x + std::int64_t{m} * K;
      double sum = 0;
      for (int k = 0; k < K; ++k)
        sum += static_cast<double>(row[static_cast<std::size_t>(k)]) * xm[k];
      p.y[std::int64_t{m} * p.w.N + n] =
          add_bias_and_residual(p, m, n, static_cast<float>(sum));
    }
  }
}

void linear_int8(const float* x, int M, int K, const Product& p) {
  const int group_size = p.w.spec.group_size, groups = K / group_size;
  std::vector<int> xq(static_cast<std::size_t>(K));
  std::vector<float> step(static_cast<std::size_t>(groups)), sums(step.size());
  for (int m = 0; m < M; ++m) {
    for (int g = 0; g < groups; ++g) {
      const float* v = x + std::int64_t{m} * K + g * group_size;
      float largest = 0;
      bool finite = true;
      for (int i = 0; i < group_size; ++i) {
        finite = finite && std::isfinite(v[i]);
        largest = std::max(largest, std::abs(v[i]));
      }
      const bool zero = !finite || largest < kSmallestStep;
      const float inverse = zero ? 0 : 127 / largest;
      int sum = 0;
      for (int i = 0; i < group_size; ++i) {
        const int q = zero ? 0 : static_cast<int>(std::nearbyint(v[i] * inverse));
        xq[static_cast<std::size_t>(g * group_size + i)] = q;
        sum += q;
      }
      const auto at = static_cast<std::size_t>(g);
      step[at] = !finite ? NAN : zero ? 0 : largest / 127;
      sums[at] = step[at] * static_cast<float>(sum);
    }
    for (int n = 0; n < p.w.N; ++n) {
      float chains[kChains] = {};
      for (int g = 0; g < groups; ++g) {
        int dot = 0;
        for (int k = g * group_size; k < (g + 1) * group_size; ++k)
          dot += static_cast<int>(code_at(p.w, n, k)) * xq[static_cast<std::size_t>(k)];
        const Group group = group_at(p.w, n, g);
        const auto at = static_cast<std::size_t>(g);
        float& chain = chains[g % kChains];
        const float scale = group.scale * step[at];
        chain = std::fmaf(static_cast<float>(dot), scale, chain);
        chain = std::fmaf(group.bias, sums[at], chain);
      }
      float sum = chains[0];
      for (int j = 1; j < kChains; ++j) sum += chains[j];
      p.y[std::int64_t{m} * p.w.N + n] = add_bias_and_residual(p, m, n, sum);
    }
  }
}

}  // namespace optiq::kernels::ref
