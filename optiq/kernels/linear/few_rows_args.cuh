// What kernels of few rows are given: products of one x and one format.
#pragma once
#include <cuda_fp16.h>

#include <cstdint>

#include "optiq/kernels/linear/linear_cuda.h"

namespace optiq::kernels::cuda {

// x made ready, in shared memory or the device's: [parts][M] rows of `row` halves in
// the order of the codes, and of each row and group its step s and s sum(xh). Rows go
// on with zeros to the end of a step.
struct ReadyX {
  __half* halves;
  float2* sums;            // [M, groups]
  std::int64_t row, part;  // halves from one to the next
  int groups;              // of a row, those of zeros among them
};

/// One product of a call.
struct FewRowsPart {
  const std::uint8_t* w;  // [N, K bits / 8]
  const void* scales;     // [N, K / group]
  const void* biases;     // affine only
  const void* bias;       // [N], or null
  const float* residual;  // [M, N], or null
  float* y;               // [M, N]
  int N;
  FloatType bias_type;
  int first_block;
};

inline constexpr int kMostParts = 4;

/// Products of one format and one x: a launch for all of them.
struct FewRowsArgs {
  const float* x;  // [M, K]
  FewRowsPart parts[kMostParts];
  int n_parts;
  int M, K;
  FloatType scale_type;
  void* scratch;
  ReadyX ready;
};

inline int rows_of_all(const FewRowsArgs& args) {
  int N = 0;
  for (int i = 0; i < args.n_parts; ++i) N += args.parts[i].N;
  return N;
}

/// One for each width, each in a source of its own: they take long to compile.
using FewRows = void (*)(const FewRowsArgs& args, int group, bool exact,
                         const Launcher& launch);
void few_rows_2(const FewRowsArgs&, int group, bool exact, const Launcher&);
void few_rows_3(const FewRowsArgs&, int group, bool exact, const Launcher&);
void few_rows_4(const FewRowsArgs&, int group, bool exact, const Launcher&);
void few_rows_5(const FewRowsArgs&, int group, bool exact, const Launcher&);
void few_rows_6(const FewRowsArgs&, int group, bool exact, const Launcher&);
void few_rows_8(const FewRowsArgs&, int group, bool exact, const Launcher&);
void few_rows_fp(const FewRowsArgs&, QuantMode mode, bool exact, const Launcher&);

}  // namespace optiq::kernels::cuda
