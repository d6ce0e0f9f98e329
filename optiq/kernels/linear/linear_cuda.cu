#include "optiq/kernels/linear/linear_cuda.h"

#include <algorithm>

#include "optiq/kernels/linear/few_rows_args.cuh"
#include "optiq/kernels/linear/parts_plan.cuh"

namespace optiq::kernels::cuda {
namespace {

FewRows affine_rows_of_width(int bits) {
  switch (bits) {
    case 2:
      return affine_rows_2;
    case 3:
      return affine_rows_3;
    case 4:
      return affine_rows_4;
    case 5:
      return affine_rows_5;
    case 6:
      return affine_rows_6;
    default:
      return affine_rows_8;
  }
}

// Rows of x in one launch: the exact form of one makes two.
int rows_of_launch(Activation activation) {
  return activation == Activation::kExact ? kMostRows / 2 : kMostRows;
}

// Products of one format, at most kMostProducts.
void run(const InputRowsView& input, std::span<const Product> products,
         const GluGate* gate, Activation activation, void* scratch,
         const Launcher& launch) {
  const MatrixView& w = products[0].w;
  const int most = rows_of_launch(activation);
  for (int first = 0; first < input.M; first += most) {
    FewRowsArgs args{};
    args.x = input.x + static_cast<std::int64_t>(first) * input.K;
    args.norm_weight = input.norm_weight;
    args.norm_eps = input.norm_eps;
    args.glu = gate != nullptr;
    if (gate) args.gate = *gate;
    args.M = std::min(most, input.M - first);
    args.K = input.K;
    args.scale_type = w.type;
    args.exact = activation == Activation::kExact;
    args.scratch = scratch;
    for (const Product& product : products) {
      const std::int64_t from = static_cast<std::int64_t>(first) * product.w.N;
      args.products[args.n_products++] = {
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
      affine_rows_of_width(w.spec.bits)(args, w.spec.group_size, launch);
    else
      fp_rows(args, w.spec.mode, launch);
  }
}

// Calls f with products of one format, which share a launch, for all of them.
template <class F>
void each_launch(std::span<const Product> products, F&& f) {
  std::size_t done = 0;
  while (done < products.size()) {
    const MatrixView& w = products[done].w;
    std::size_t end = done + 1;
    while (end < products.size() && end - done < kMostProducts &&
           products[end].w.spec == w.spec && products[end].w.type == w.type)
      ++end;
    f(products.subspan(done, end - done));
    done = end;
  }
}

std::size_t bytes_of_launch(int rows, int K, std::span<const Product> products,
                            bool glu, Activation activation) {
  const QuantSpec& spec = products[0].w.spec;
  if (spec.mode == QuantMode::kAffine) {
    FewRowsArgs args{};
    args.M = rows, args.K = K, args.glu = glu;
    args.exact = activation == Activation::kExact;
    args.scale_type = products[0].w.type;
    for (const Product& product : products)
      args.products[args.n_products++].N = product.w.N;
    return PartsLayout(PartsProblem::of(args, spec.bits, spec.group_size)).bytes;
  }
  const int parts = activation == Activation::kExact ? 2 : 1;
  constexpr int kSmallestGroup = 16, kLargestStep = 256;
  const std::size_t values = static_cast<std::size_t>(rows) * parts *
                             ((K + kLargestStep - 1) / kLargestStep * kLargestStep);
  constexpr int kOfRow = 64;
  return values * 2 + values / kSmallestGroup * sizeof(float2) +
         static_cast<std::size_t>(rows) * parts * kOfRow;
}

}  // namespace

bool has_linear(const MatrixView& w) { return w.quantized(); }

bool joins_norm_and_gate(const QuantSpec& spec) {
  return spec.mode == QuantMode::kAffine;
}

std::size_t scratch_bytes(const InputRowsView& input, std::span<const Product> products,
                          bool glu, Activation activation) {
  // Of the last piece, too: fewer rows may be cut into more parts.
  const int at_once = rows_of_launch(activation);
  std::size_t most = 0;
  each_launch(products, [&](std::span<const Product> together) {
    for (const int rows : {std::min(input.M, at_once), input.M % at_once})
      if (rows > 0)
        most =
            std::max(most, bytes_of_launch(rows, input.K, together, glu, activation));
  });
  return most;
}

void linear(const InputRowsView& input, std::span<const Product> products,
            Activation activation, void* scratch, const Launcher& launch) {
  each_launch(products, [&](std::span<const Product> together) {
    run(input, together, nullptr, activation, scratch, launch);
  });
}

void glu(GluGate f, const InputRowsView& input, const Product& gate, const Product& up,
         float* y, Activation activation, void* scratch, const Launcher& launch) {
  Product both[] = {gate, up};
  for (Product& product : both) product.y = y, product.residual = nullptr;
  run(input, both, &f, activation, scratch, launch);
}

}  // namespace optiq::kernels::cuda
