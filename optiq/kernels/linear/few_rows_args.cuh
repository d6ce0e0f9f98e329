// What kernels of few rows are given: products of one x and one format.
#pragma once
#include <cstdint>

#include "optiq/kernels/cuda_device.cuh"
#include "optiq/kernels/linear/linear_cuda.h"

namespace optiq::kernels::cuda {

/// One product of a call.
struct FewRowsProduct {
  const std::uint8_t* w;  // [N, K bits / 8]
  const void* scales;     // [N, K / group]
  const void* biases;     // affine only
  const void* bias;       // [N], or null
  const float* residual;  // [M, N], or null
  float* y;               // [M, N]
  int N;
  FloatType bias_type;
  int first_tile;  // of the launch's tiles of rows
};

inline constexpr int kMostProducts = 4;

/// Products of one format and one x: a launch for all of them.
struct FewRowsArgs {
  const float* x;            // [M, K]
  const float* norm_weight;  // [K]: x is to be normed first; null: it is not
  float norm_eps;
  FewRowsProduct products[kMostProducts];
  int n_products;
  bool glu;  // of two products: y of the first is gate(the first) (the second)
  GluGate gate;
  int M, K;
  FloatType scale_type;
  bool exact;
  void* scratch;  // x made ready, if not each block does that
};

/// The product that a tile of rows is of.
__device__ inline int product_of_tile(const FewRowsArgs& a, int tile) {
  int which = 0;
  while (which + 1 < a.n_products && tile >= a.products[which + 1].first_tile) ++which;
  return which;
}

/// One for each width, each in a source of its own: they take long to compile.
using FewRows = void (*)(const FewRowsArgs& args, int group, const Launcher& launch);
void affine_rows_2(const FewRowsArgs&, int group, const Launcher&);
void affine_rows_3(const FewRowsArgs&, int group, const Launcher&);
void affine_rows_4(const FewRowsArgs&, int group, const Launcher&);
void affine_rows_5(const FewRowsArgs&, int group, const Launcher&);
void affine_rows_6(const FewRowsArgs&, int group, const Launcher&);
void affine_rows_8(const FewRowsArgs&, int group, const Launcher&);

/// Takes x as it is, and no pairs: neither norm_weight nor glu.
void fp_rows(const FewRowsArgs&, QuantMode mode, const Launcher&);

}  // namespace optiq::kernels::cuda
