// A product cut into rows of its matrix that one thread does.
#pragma once
#include "optiq/kernels/linear/input_rows.h"
#include "optiq/kernels/linear/kernel_table.h"
#include "optiq/kernels/linear/linear.h"

namespace optiq::kernels {

/// Those of the SIMD target in use; panel_rows is 0 for the scalar one, which has none.
LinearKernels linear_kernels_in_use();

/// Rows of W a piece, where a call has `total_rows` in all of its products: some eight
/// pieces a thread, so that a thread that is held up costs little, but not so few rows
/// that the claim of a piece shows.
int rows_of_a_piece(const LinearKernels& kernels, std::int64_t total_rows);

/// Rows [begin, end) of a product, on one thread.
struct Piece {
  const Product& product;
  const InputRows& rows;
  int begin, end;

  /// y[m stride + n - begin] for each row m of the input; the residual likewise.
  void multiply(const LinearKernels& kernels, float* y, std::int64_t stride,
                const float* residual) const;

 private:
  MultiplyFunction kernel(const LinearKernels& kernels) const;
  std::size_t scratch_size(const LinearKernels& kernels) const;
};

/// The definitions, on the pool: for the scalar target.
void linear_by_reference(const float* x, int M, int K, const Product& product,
                         Activation activation);

}  // namespace optiq::kernels
