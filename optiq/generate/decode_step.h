// The next token or few of each of some sequences, without building a graph for them
// every time.
#pragma once
#include <optional>
#include <span>
#include <vector>

#include "mlx/array.h"
#include "optiq/cache/sequence_state.h"
#include "optiq/generate/step_logits.h"

#include "optiq/kernels/dispatch_tape.h"
#include "optiq/models/model.h"

namespace optiq::generation {

namespace mx = mlx::core;

/// A forward call of a few tokens a sequence. The first call for the same sequences and
/// numbers of tokens is evaluated as a graph and its kernels are taped; the next ones
/// replay the tape.
///
/// Threads   one.
class DecodeStep {
 public:
  /// Requires  `model` outlives this, and its weights stay where they are.
  DecodeStep(models::Model& model, kernels::Activation activation);

  /// Takes in rows[i] tokens of each sequence, under the adapters given (as in a
  /// Batch). A device makes these draws from the rows; none are the largest of each.
  ///
  /// Shapes    ids, draws [sum of rows], those of each of `states` in turn -> logits
  ///           [sum of rows, vocab_size], until the next call
  /// Throws    ResourceError if there is no room; the sequences are as they were
  StepLogits operator()(const std::vector<cache::SequenceState*>& states,
                        const std::vector<int>& rows, std::span<const int> ids,
                        const std::vector<models::AdapterPtr>& adapters = {},
                        std::vector<kernels::RowDraw> draws = {});

  /// Gives back what is held of the last call's sequences. To be called when one of
  /// them goes.
  void forget() { tapes_.clear(); }

 private:
  struct Taped {
    models::Batch batch;
    mx::array ids;
    mx::array draws;
    mx::array logits;
    std::optional<mx::array> chosen;     // on a device
    std::vector<const void*> addresses;  // of the recurrent states
    kernels::DispatchTape tape;

    bool is_for(const std::vector<cache::SequenceState*>& states,
                const std::vector<int>& rows,
                const std::vector<models::AdapterPtr>& adapters) const;
  };

  StepLogits evaluate(const std::vector<cache::SequenceState*>& states,
                      const std::vector<int>& rows, std::span<const int> ids,
                      const std::vector<models::AdapterPtr>& adapters,
                      std::vector<kernels::RowDraw> draws);

  static StepLogits of_tape(const Taped& taped, std::vector<kernels::RowDraw> draws);

  models::Model& model_;
  kernels::Activation activation_;
  std::vector<Taped> tapes_;  // the one used last first
};

}  // namespace optiq::generation
