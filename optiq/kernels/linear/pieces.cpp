#include "optiq/kernels/linear/pieces.h"

#include <algorithm>

#include "optiq/base/parallel.h"
#include "optiq/kernels/embedding/embedding.h"
#include "optiq/kernels/linear/scratch.h"

namespace optiq::kernels {

LinearKernels linear_kernels_in_use() { return OPTIQ_CHOOSE(linear_kernels)(); }

int rows_of_a_piece(const LinearKernels& kernels, std::int64_t total_rows) {
  const std::int64_t wanted = total_rows / (std::int64_t{8} * thread_count());
  const std::int64_t most = 8 * kernels.panel_rows;
  const std::int64_t panels =
      std::clamp<std::int64_t>(wanted, 1, most) / kernels.panel_rows;
  return static_cast<int>(std::max<std::int64_t>(panels, 1)) * kernels.panel_rows;
}

MultiplyFunction Piece::kernel(const LinearKernels& k) const {
  if (rows.exact) return rows.few ? k.exact_few : k.exact_many;
  return rows.few ? k.int8_few : k.int8_many;
}

std::size_t Piece::scratch_size(const LinearKernels& k) const {
  const ScratchFunction size =
      rows.exact ? (rows.few ? k.exact_few_scratch : k.exact_many_scratch)
      : rows.few ? nullptr
                 : k.int8_many_scratch;
  return size ? static_cast<std::size_t>(size(rows)) : 0;
}

void Piece::multiply(const LinearKernels& k, float* y, std::int64_t stride,
                     const float* residual) const {
  thread_local Scratch scratch, bias_values, dense_rows;
  Output out{y, stride, nullptr, residual};
  const auto n = static_cast<std::size_t>(end - begin);
  if (product.bias && product.bias_type == FloatType::kF32) {
    out.bias = static_cast<const float*>(product.bias) + begin;
  } else if (product.bias) {
    auto* values = static_cast<float*>(bias_values.get(n * sizeof(float)));
    for (std::size_t i = 0; i < n; ++i)
      values[i] = load_float(product.bias, begin + static_cast<std::int64_t>(i),
                             product.bias_type);
    out.bias = values;
  }
  void* memory = scratch.get(std::max<std::size_t>(scratch_size(k), 64));
  const MatrixView& w = product.w;
  if (!w.quantized() || w.spec.mode == QuantMode::kAffine)
    return kernel(k)(w, rows, begin, end, out, memory);
  // The mx and nv formats run as dense rows.
  const auto K = static_cast<std::size_t>(w.K);
  auto* values = static_cast<float*>(dense_rows.get(n * K * sizeof(float)));
  for (std::size_t i = 0; i < n; ++i)
    ref::dequantize_row(w, begin + static_cast<int>(i), values + i * K);
  MatrixView dense;
  dense.N = static_cast<int>(n);
  dense.K = w.K;
  dense.weight = values;
  kernel(k)(dense, rows, 0, dense.N, out, memory);
}

void linear_by_reference(const float* x, int M, int K, const Product& product,
                         Activation activation) {
  const bool int8 = activation == Activation::kInt8 && has_int8(product.w);
  parallel_for(static_cast<std::size_t>(M), [&](std::size_t m) {
    Product row = product;
    const auto offset = static_cast<std::int64_t>(m) * row.w.N;
    row.y += offset;
    if (row.residual) row.residual += offset;
    const float* xm = x + static_cast<std::int64_t>(m) * K;
    int8 ? ref::linear_int8(xm, 1, K, row) : ref::linear_exact(xm, 1, K, row);
  });
}

}  // namespace optiq::kernels
