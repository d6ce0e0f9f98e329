#include "optiq/kernels/linear/linear_cuda.h"

#include <algorithm>

#include "optiq/kernels/linear/few_rows_args.cuh"

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
  constexpr int kSmallestGroup = 16, kLargestStep = 512;
  const std::size_t values = static_cast<std::size_t>(rows) *
                             ((K + kLargestStep - 1) / kLargestStep * kLargestStep);
  return values * parts * sizeof(__half) + values / kSmallestGroup * sizeof(float2);
}

void linear(const float* x, int M, int K, std::span<const Product> products,
            Activation activation, void* scratch, const Launcher& launch) {
  const bool exact = activation == Activation::kExact;
  std::size_t done = 0;
  while (done < products.size()) {
    // Those of one format share a launch.
    const MatrixView& w = products[done].w;
    std::size_t end = done + 1;
    while (end < products.size() && end - done < kMostParts &&
           products[end].w.spec == w.spec && products[end].w.type == w.type)
      ++end;
    for (int first = 0; first < M; first += kMostRows) {
      FewRowsArgs args{};
      args.x = x + static_cast<std::int64_t>(first) * K;
      args.M = std::min(kMostRows, M - first);
      args.K = K;
      args.scale_type = w.type;
      args.scratch = scratch;
      for (const Product& product : products.subspan(done, end - done)) {
        const std::int64_t from = static_cast<std::int64_t>(first) * product.w.N;
        args.parts[args.n_parts++] = {
            static_cast<const std::uint8_t*>(product.w.weight),
            product.w.scales,
            product.w.biases,
            product.bias,
            product.residual ? product.residual + from : nullptr,
            product.y + from,
            product.w.N,
            product.bias_type,
            0};
      }
      if (w.spec.mode == QuantMode::kAffine)
        of_bits(w.spec.bits)(args, w.spec.group_size, exact, launch);
      else
        few_rows_fp(args, w.spec.mode, exact, launch);
    }
    done = end;
  }
}

}  // namespace optiq::kernels::cuda
