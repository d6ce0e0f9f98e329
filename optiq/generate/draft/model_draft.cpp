#include "optiq/generate/draft/model_draft.h"

#include <algorithm>
#include <cmath>

#include "optiq/kernels/sampling/sampling.h"

namespace optiq::generation {
namespace {

// Below this probability of its likeliest token the small model guesses no further: the
// row that checks the guess costs more than it saves.
constexpr float kSure = 0.4f;

}  // namespace

ModelDraft::ModelDraft(std::shared_ptr<LoadedModel> model, int most,
                       kernels::Activation activation)
    : model_(std::move(model)),
      session_(*model_->model, {.cache = {}, .activation = activation}),
      most_(most) {}

// Brings the session to `tokens`. Returns   the logits behind the last of them
mx::array ModelDraft::read(std::span<const int> tokens) {
  const auto& held = session_.tokens();
  const auto [ours, theirs] =
      std::mismatch(held.begin(), held.end(), tokens.begin(), tokens.end());
  int common = static_cast<int>(ours - held.begin());
  common = std::min(common, static_cast<int>(tokens.size()) - 1);
  if (!session_.state().can_truncate(common)) common = std::min(common, read_);
  if (!session_.state().can_truncate(common)) common = 0;
  session_.truncate(common);
  const mx::array logits =
      session_.feed(tokens.subspan(static_cast<std::size_t>(common)));
  session_.forget_snapshot(read_);
  read_ = session_.length();
  session_.take_snapshot();
  return logits;
}

std::vector<int> ModelDraft::propose(std::span<const int> tokens, int most) {
  const auto& config = model_->model->config();
  const std::int64_t room =
      config.max_position_embeddings - static_cast<std::int64_t>(tokens.size());
  most = static_cast<int>(std::min<std::int64_t>(std::min(most, most_), room));
  if (most < 1) return {};
  for (const int id : tokens)
    if (id >= config.vocab_size) return {};
  std::vector<int> guess;
  mx::array logits = read(tokens);
  for (;;) {
    const std::span<const float> row(logits.data<float>(), logits.size());
    const int id = static_cast<int>(std::ranges::max_element(row) - row.begin());
    if (std::exp(kernels::log_prob(row, id)) < kSure) return guess;
    guess.push_back(id);
    if (static_cast<int>(guess.size()) == most || model_->eos_ids.contains(id))
      return guess;
    logits = session_.feed(std::span(&id, 1));
  }
}

}  // namespace optiq::generation
