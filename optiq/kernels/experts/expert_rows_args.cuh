// What kernels of experts' products are given.
#pragma once
#include "optiq/kernels/linear/few_rows_args.cuh"

namespace optiq::kernels::cuda {

/// Products of pairs, a token and an expert of it each, with the experts' matrices.
struct ExpertRowsArgs {
  const float* x;              // [pairs / pairs_of_row, K]
  const std::int32_t* ids;     // [pairs]
  FewRowsProduct products[2];  // of all experts: [E N, K]; their N is an expert's
  bool glu;            // y = gate(the first's) (the second's); else of the first alone
  const float* gated;  // [pairs, N], or null: y = gate(gated) (the first's)
  GluGate gate;
  float* y;  // [pairs, N]
  int n_pairs, pairs_of_row, n_experts, K;
  FloatType scale_type;
  bool exact;
};

/// One for each width, each in a source of its own.
using ExpertRows = void (*)(const ExpertRowsArgs& args, int group,
                            const Launcher& launch);
void expert_rows_2(const ExpertRowsArgs&, int group, const Launcher&);
void expert_rows_3(const ExpertRowsArgs&, int group, const Launcher&);
void expert_rows_4(const ExpertRowsArgs&, int group, const Launcher&);
void expert_rows_5(const ExpertRowsArgs&, int group, const Launcher&);
void expert_rows_6(const ExpertRowsArgs&, int group, const Launcher&);
void expert_rows_8(const ExpertRowsArgs&, int group, const Launcher&);

}  // namespace optiq::kernels::cuda
