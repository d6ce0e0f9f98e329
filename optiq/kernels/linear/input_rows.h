// The activations of one call, in every form that its products read.
#pragma once
#include <vector>

#include "optiq/kernels/linear/kernel_table.h"
#include "optiq/kernels/linear/linear.h"

namespace optiq::kernels {

/// Forms of x [M, K], each made once however many products share it.
///
/// Threads   fill() runs on the calling thread with the help of the pool. Its memory is
///           the calling thread's and is lost at its next fill().
class InputForms {
 public:
  InputForms(const LinearKernels& kernels, const float* x, int M, int K,
             Activation activation);

  /// Sees to it that there is a form for the matrix.
  void want(const MatrixView& w);

  /// Fills the forms wanted. Once, before the first form_for().
  void fill();

  /// The same in two steps and in memory of somebody else, aligned to a cache line, for
  /// those who keep the forms of several inputs: fill_here() runs on the calling thread
  /// alone.
  std::size_t bytes() const;
  void place(char* memory);
  void fill_here() { fill_rows(0, M_); }

  const InputRows& form_for(const MatrixView& w) const;

 private:
  InputRows describe(const MatrixView& w) const;
  void fill_rows(int begin, int end);

  const LinearKernels& kernels_;
  const float* x_;
  int M_, K_;
  Activation activation_;
  std::vector<InputRows> forms_;
};

}  // namespace optiq::kernels
