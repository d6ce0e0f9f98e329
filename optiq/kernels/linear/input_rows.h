// The activations of one call, in every form that its products read.
#pragma once
#include <vector>

#include "optiq/kernels/linear/kernel_table.h"
#include "optiq/kernels/linear/linear.h"

namespace optiq::kernels {

/// Forms of x [M, K], each made once however many products share it.
///
/// Threads   made on the calling thread with the help of the pool. The memory is the
///           calling thread's and is lost at its next InputForms.
class InputForms {
 public:
  InputForms(const LinearKernels& kernels, const float* x, int M, int K,
             Activation activation);

  /// Sees to it that there is a form for the matrix.
  void want(const MatrixView& w);

  /// Fills the forms wanted. Once, before the first form_for().
  void fill();

  const InputRows& form_for(const MatrixView& w) const;

 private:
  InputRows describe(const MatrixView& w) const;

  const LinearKernels& kernels_;
  const float* x_;
  int M_, K_;
  Activation activation_;
  std::vector<InputRows> forms_;
};

}  // namespace optiq::kernels
