// The loss of a batch and its gradients.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "optiq/train/dataset.h"
#include "optiq/train/lora_parameters.h"

namespace optiq::train {

/// Summed over the tokens that are learnt, in nats.
struct Loss {
  double sum = 0;
  std::int64_t tokens = 0;

  double mean() const { return tokens > 0 ? sum / static_cast<double>(tokens) : 0; }
  void add(const Loss& other) {
    sum += other.sum;
    tokens += other.tokens;
  }
};

struct ObjectiveOptions {
  kernels::Activation activation = kernels::Activation::kInt8;
  bool checkpoint =
      false;  // a layer's inner values are computed again for its gradient
};

/// Sequences of a batch lie end to end, without padding. Logits are made for the tokens
/// that are learnt alone, some rows at a time, and never kept.
///
/// Threads   one.
class Objective {
 public:
  /// Requires  `model` outlives this.
  Objective(models::Model& model, const ObjectiveOptions& options)
      : model_(model), options_(options) {}

  /// The loss under an adapter (null: the base).
  Loss loss(std::span<const Example* const> batch, const models::AdapterPtr& adapter);

  /// The loss, and the gradient of its mean by each of the parameters' values,
  /// evaluated.
  Loss gradients(std::span<const Example* const> batch,
                 const LoraParameters& parameters, std::uint64_t dropout_step,
                 std::vector<mx::array>& gradients);

 private:
  struct Rows;  // of a batch: what goes in, and which rows are learnt

  mx::array hidden(const Rows& rows, const models::AdapterPtr& adapter);
  mx::array traced(const Rows& rows, const LoraParameters& parameters,
                   std::uint64_t dropout_step, const std::vector<mx::array>& values);
  Loss head(const Rows& rows, const mx::array& hidden, float* gradient);
  mx::array back_through_head(const mx::array& gradient);

  models::Model& model_;
  ObjectiveOptions options_;
  std::optional<mx::array> head_;  // the output matrix as floats, where it is small
};

}  // namespace optiq::train
