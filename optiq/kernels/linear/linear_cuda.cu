#include "optiq/kernels/linear/linear_cuda.h"

#include <algorithm>

#include "optiq/kernels/linear/few_rows_cuda.cuh"

namespace optiq::kernels::cuda {
namespace {

FewRows of_bits(int bits) {
  switch (bits) {
    case 2:
      return few_rows_2;
    case 3:
      return few_rows_3;
    case 4:
      return few_rows_4;
    case 5:
      return few_rows_5;
    case 6:
      return few_rows_6;
    default:
      return few_rows_8;
  }
}

}  // namespace

bool has_linear(const MatrixView& w) { return w.quantized(); }

std::size_t scratch_bytes(int M, int K, Activation activation) {
  const int rows = std::min(M, kMostRows),
            parts = activation == Activation::kExact ? 2 : 1;
  constexpr int kSmallestGroup = 16;
  const std::size_t values = static_cast<std::size_t>(rows) * K;
  return values * parts * sizeof(__half) + values / kSmallestGroup * sizeof(float2);
}

void linear(const float* x, int M, int K, const Product& product, Activation activation,
            void* scratch, const Launcher& launch) {
  const bool exact = activation == Activation::kExact;
  const MatrixView& w = product.w;
  for (int first = 0; first < M; first += kMostRows) {
    const std::int64_t from = static_cast<std::int64_t>(first) * w.N;
    const FewRowsArgs args{x + static_cast<std::int64_t>(first) * K,
                           static_cast<const std::uint8_t*>(w.weight),
                           w.scales,
                           w.biases,
                           product.bias,
                           product.residual ? product.residual + from : nullptr,
                           product.y + from,
                           std::min(kMostRows, M - first),
                           w.N,
                           K,
                           w.type,
                           product.bias_type,
                           scratch,
                           {}};
    if (w.spec.mode == QuantMode::kAffine)
      of_bits(w.spec.bits)(args, w.spec.group_size, exact, launch);
    else
      few_rows_fp(args, w.spec.mode, exact, launch);
  }
}

}  // namespace optiq::kernels::cuda
