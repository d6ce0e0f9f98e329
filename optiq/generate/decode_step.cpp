#include "optiq/generate/decode_step.h"

#include <algorithm>
#include <utility>

#include "mlx/transforms.h"
#include "optiq/kernels/fused_primitive.h"
#include "optiq/kernels/host_primitive.h"
#include "optiq/kernels/sampling/sampling_primitive.h"

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

StepLogits on_device(const mx::array& logits, std::vector<kernels::RowDraw> draws,
                     const mx::array& chosen) {
  std::vector<int> ids(chosen.size());
  kernels::read(chosen, 0, chosen.nbytes(), ids.data());
  return {logits, std::move(draws), std::move(ids)};
}

// Tapes that are kept: steps of one token, and of a few lengths of drafts.
constexpr std::size_t kTapes = 4;

}  // namespace

DecodeStep::DecodeStep(models::Model& model, kernels::Activation activation)
    : model_(model), activation_(activation) {}

bool DecodeStep::Taped::is_for(const std::vector<cache::SequenceState*>& states,
                               const std::vector<int>& rows,
                               const std::vector<models::AdapterPtr>& adapters) const {
  return batch.states == states && batch.adapters == adapters &&
         std::ranges::equal(batch.segments, rows, {}, &kernels::Segment::tokens) &&
         addresses == addresses_of(states) && models::can_continue(batch);
}

StepLogits DecodeStep::operator()(const std::vector<cache::SequenceState*>& states,
                                  const std::vector<int>& rows,
                                  std::span<const int> ids,
                                  const std::vector<models::AdapterPtr>& adapters,
                                  std::vector<kernels::RowDraw> draws) {
  draws.resize(ids.size());
  const auto found = std::ranges::find_if(
      tapes_, [&](const Taped& tape) { return tape.is_for(states, rows, adapters); });
  if (found == tapes_.end())
    return evaluate(states, rows, ids, adapters, std::move(draws));
  std::rotate(tapes_.begin(), found, found + 1);
  Taped& taped = tapes_.front();
  {
    const kernels::QueuedWrites queued;
    models::continue_batch(taped.batch);
    kernels::overwrite(taped.ids, ids.data());
    if (taped.chosen) kernels::overwrite(taped.draws, draws.data());
    taped.tape.replay();
  }
  StepLogits logits = of_tape(taped, std::move(draws));
  models::finish_batch(taped.batch);
  return logits;
}

StepLogits DecodeStep::evaluate(const std::vector<cache::SequenceState*>& states,
                                const std::vector<int>& rows, std::span<const int> ids,
                                const std::vector<models::AdapterPtr>& adapters,
                                std::vector<kernels::RowDraw> draws) {
  // What was taped for other sequences, or where these had other memory, is of no use.
  std::erase_if(tapes_, [&](const Taped& tape) {
    return tape.batch.states != states || tape.addresses != addresses_of(states) ||
           !models::can_continue(tape.batch);
  });
  const std::vector<const void*> before = addresses_of(states);
  Taped next{models::cached_batch(states, rows, activation_),
             mx::array(ids.data(), {static_cast<int>(ids.size())}, mx::int32),
             kernels::draws_array(draws),
             mx::array(0.0f),
             std::nullopt,
             {},
             {}};
  next.batch.adapters = adapters;
  next.logits = model_.head(model_.hidden(next.ids, next.batch), activation_);
  next.chosen = kernels::choose_tokens(next.logits, next.draws);
  std::vector<mx::array> outputs{next.logits};
  if (next.chosen) outputs.push_back(*next.chosen);
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
  if (!taping || next.addresses != before)
    return next.chosen ? on_device(next.logits, std::move(draws), *next.chosen)
                       : StepLogits(next.logits);
  if (tapes_.size() == kTapes) tapes_.pop_back();
  tapes_.insert(tapes_.begin(), std::move(next));
  return of_tape(tapes_.front(), std::move(draws));
}

// Logits that the next step overwrites: a copy, unless they lie on a device.
StepLogits DecodeStep::of_tape(const Taped& taped,
                               std::vector<kernels::RowDraw> draws) {
  return taped.chosen ? on_device(taped.logits, std::move(draws), *taped.chosen)
                      : StepLogits(kernels::on_host(taped.logits));
}

}  // namespace optiq::generation
