// What every layer of a model is given besides its input, and its products with
// matrices, which adapters may change.
#pragma once
#include <initializer_list>
#include <optional>
#include <vector>

#include "optiq/models/model.h"

namespace optiq::models {

/// The call that a layer takes part in.
struct LayerCall {
  int index;  // of the layer, counted in the model
  const Batch& batch;
  const InputObserver& observer;
  const ExpertObserver& expert_observer;
  const QueryObserver& query_observer;
  const OutputHook& output_hook;

  /// x W^T + bias + residual, by the batch's activation unless another is given.
  /// Shapes    x [T, K]; residual [T, N] -> [T, N]
  mx::array linear(
      const LinearModule& module, const mx::array& x,
      const std::optional<mx::array>& residual,
      const std::optional<kernels::Activation>& chosen = std::nullopt) const;

  /// Several products of one x. Shapes  x [T, K] -> one [T, N_i] each
  std::vector<mx::array> linears(std::initializer_list<const LinearModule*> modules,
                                 const mx::array& x) const;

  /// Products of one x by a matrix that is several, their rows one after another.
  /// Shapes    x [T, K] -> one [T, rows_i] each
  std::vector<mx::array> packed(const LinearModule& module,
                                const std::vector<int>& rows, const mx::array& x) const;

  /// f(gate x) * (up x); without `up`, its rows stand below those of the gate.
  /// Shapes    x [T, K] -> [T, N]
  mx::array glu(const LinearModule& gate, const std::optional<LinearModule>& up,
                kernels::GluGate f, const mx::array& x) const;

 private:
  bool is_adapted(const LinearModule& module) const;
  kernels::LowRankProduct change(const LinearModule& module, const mx::array& y,
                                 const std::optional<mx::array>& residual) const;
};

}  // namespace optiq::models
