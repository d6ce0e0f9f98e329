#include "optiq/generate/decode_step.h"

#include <algorithm>
#include <utility>

#include "mlx/transforms.h"

namespace optiq::generation {
namespace {

std::vector<const void*> addresses_of(
    const std::vector<cache::SequenceState*>& states) {
  std::vector<const void*> all;
  for (const cache::SequenceState* state : states) {
    const auto more = state->addresses();
    all.insert(all.end(), more.begin(), more.end());
  }
  return all;
}

bool all_known(const std::vector<const void*>& addresses) {
  return std::ranges::find(addresses, nullptr) == addresses.end();
}

// A copy: the tape writes the next logits where the last ones lie.
mx::array copy_of(const mx::array& x) {
  return mx::array(x.data<float>(), x.shape(), x.dtype());
}

}  // namespace

DecodeStep::DecodeStep(models::Model& model, kernels::Activation activation)
    : model_(model), activation_(activation) {}

mx::array DecodeStep::operator()(const std::vector<cache::SequenceState*>& states,
                                 std::span<const int> ids,
                                 const std::vector<models::AdapterPtr>& adapters) {
  if (!taped_ || taped_->batch.states != states || taped_->batch.adapters != adapters ||
      taped_->addresses != addresses_of(states))
    return evaluate(states, ids, adapters);
  models::continue_batch(taped_->batch);
  std::ranges::copy(ids, taped_->ids.data<int>());
  taped_->tape.replay();
  models::finish_batch(taped_->batch);
  return copy_of(taped_->logits);
}

mx::array DecodeStep::evaluate(const std::vector<cache::SequenceState*>& states,
                               std::span<const int> ids,
                               const std::vector<models::AdapterPtr>& adapters) {
  taped_.reset();
  const std::vector<const void*> before = addresses_of(states);
  Taped next{
      models::cached_batch(states, std::vector<int>(states.size(), 1), activation_),
      mx::array(ids.data(), {static_cast<int>(ids.size())}, mx::int32),
      mx::array(0.0f),
      {},
      {}};
  next.batch.adapters = adapters;
  next.logits = model_.head(model_.hidden(next.ids, next.batch), activation_);
  std::vector<mx::array> outputs{next.logits};
  for (const cache::SequenceState* state : states)
    for (mx::array& array : state->arrays()) outputs.push_back(std::move(array));
  // Only what is written in place is found again by the next step.
  const bool taping = kernels::can_be_taped(outputs) && all_known(before);
  {
    std::optional<kernels::TapeRecording> recording;
    if (taping) recording.emplace(next.tape);
    mx::eval(std::move(outputs));
  }
  models::finish_batch(next.batch);
  next.addresses = addresses_of(states);
  if (!taping || next.addresses != before) return next.logits;
  taped_ = std::move(next);
  return copy_of(taped_->logits);
}

}  // namespace optiq::generation
