#include "optiq/generate/engine/running.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "optiq/base/log.h"
#include "optiq/generate/engine/prefill_cut.h"

namespace optiq::generation {
namespace {

// Further boundaries of a prompt are not kept: each costs a recurrent state.
constexpr std::size_t kMostStops = 4;

// The first boundary is the system prompt's, which most requests share; the last ones
// are where this conversation goes on.
std::vector<int> stops_of(const std::vector<int>& boundaries, int length) {
  std::set<int> cuts;
  for (const int boundary : boundaries)
    if (boundary < length) cuts.insert(boundary / kCutTokens * kCutTokens);
  cuts.insert(last_cut(length));
  cuts.erase(0);
  std::vector<int> stops(cuts.begin(), cuts.end());
  if (stops.size() > kMostStops)
    stops.erase(stops.begin() + 1, stops.end() - (kMostStops - 1));
  return stops;
}

std::string salt_of(const EngineRequest& request) {
  return request.salt + '\0' + (request.adapter ? request.adapter->identity : "");
}

const text::Tokenizer* tokenizer_of(const LoadedModel& model) {
  return model.tokenizer ? &*model.tokenizer : nullptr;
}

}  // namespace

Running::Running(std::uint64_t id, EngineRequest request,
                 std::shared_ptr<EngineListener> listener, const LoadedModel& model,
                 int context_length)
    : id_(id),
      request_(std::move(request)),
      salt_(salt_of(request_)),
      listener_(std::move(listener)),
      eos_ids_(model.eos_ids),
      tokens_(std::move(request_.prompt)),
      stops_(stops_of(request_.boundaries, static_cast<int>(tokens_.size()))),
      prompt_tokens_(static_cast<int>(tokens_.size())),
      room_(context_length - prompt_tokens_),
      sampler_(request_.sampling, request_.seed),
      answer_(tokenizer_of(model), request_.stop_strings) {
  const std::int64_t most = std::min(request_.max_tokens, room_);
  turns_long_ = model.model->config().rope.turns_long(prompt_tokens_ + most);
  if (turns_long_) salt_ += std::string("\0long", 5);
}

Running::Running(std::uint64_t id, std::vector<int> tokens, EmbeddingDone done,
                 const LoadedModel& model, int context_length)
    : Running(id, EngineRequest{.prompt = std::move(tokens)}, nullptr, model,
              context_length) {
  embedding_done_ = std::move(done);
  wants_hidden_ = true;
}

int Running::unread() const {
  return static_cast<int>(tokens_.size()) - (state_ ? state_->length() : 0);
}

void Running::begin(cache::SequenceState state, int cached_tokens) {
  state_.emplace(std::move(state));
  if (started_) return;  // it was set aside for want of memory, and comes back
  started_ = true;
  cached_tokens_ = cached_tokens;
  const std::lock_guard lock(telling_);
  if (!finished_ && listener_) listener_->started(cached_tokens);
}

int Running::sample(StepLogits& step, int row) {
  // Presence and frequency count the answer, as OpenAI's do; repetition counts the
  // prompt too, as everybody's does.
  const std::span<const int> all(tokens_);
  const bool whole = request_.sampling.repetition_penalty != 1;
  const std::span<const int> context =
      whole ? all : all.subspan(static_cast<std::size_t>(prompt_tokens_));
  if (request_.policy) {
    mask_.assign((static_cast<std::size_t>(step.width()) + 31) / 32, 0);
    if (request_.policy->restrict_next(mask_)) {
      const std::span<const float> logits = step.row(row);
      masked_.assign(logits.size(), -std::numeric_limits<float>::infinity());
      for (std::size_t word = 0; word < mask_.size(); ++word) {
        for (std::uint32_t bits = mask_[word]; bits != 0; bits &= bits - 1) {
          const std::size_t id =
              32 * word + static_cast<std::size_t>(__builtin_ctz(bits));
          if (id < logits.size()) masked_[id] = logits[id];
        }
      }
      return sampler_.sample(masked_, context);
    }
  }
  return generation::sample(sampler_, step, row, context);
}

bool Running::choose(StepLogits& logits, int row) {
  if (finished_) return false;
  try {
    if (request_.max_tokens == 0) {
      finish(EngineFinish::kLength);
      return false;
    }
    if (request_.policy && request_.policy->complete()) {
      finish(EngineFinish::kEnd);
      return false;
    }
    const int id = sample(logits, row);
    const bool ends = (!request_.ignore_eos && eos_ids_.contains(id)) ||
                      request_.stop_ids.contains(id);
    if (ends) {
      finish(EngineFinish::kEnd);
      return false;
    }
    if (request_.policy) request_.policy->accept(id);
    return tell(id, logits, row);
  } catch (const std::exception& error) {
    finish(EngineFinish::kFailed, error.what());
    return false;
  }
}

void Running::set_draft(std::unique_ptr<Draft> draft, int most) {
  draft_ = std::move(draft);
  draft_length_ = DraftLength(most);
}

std::span<const int> Running::guess(int most) {
  guess_.clear();
  // The last token that may come needs no guess behind it.
  const int more = std::min(request_.max_tokens, room_) - answered_ - 1;
  if (!draft_ || std::min(most, more) < 1) return {};
  const int n = std::min({draft_length_.next(), most, more});
  if (n < 1) return {};
  try {
    guess_ = draft_->propose(tokens_, n);
  } catch (const std::exception& error) {
    log_warning("guesses stop: {}", error.what());
    draft_.reset();
  }
  return guess_;
}

int Running::choose_all(StepLogits& logits, int row) {
  const int read = state_->length() - static_cast<int>(guess_.size());
  std::size_t held = 0;
  while (choose(logits, row + static_cast<int>(held)) && held < guess_.size() &&
         tokens_.back() == guess_[held])
    ++held;
  if (guess_.empty()) return 0;
  draft_length_.told(static_cast<int>(guess_.size()), static_cast<int>(held));
  guess_.clear();
  // A recurrent state goes back to where it was kept before the step.
  int length = read + static_cast<int>(held);
  while (!state_->can_truncate(length)) --length;
  state_->truncate(length);
  return static_cast<int>(held);
}

bool Running::tell(int id, StepLogits& logits, int row) {
  tokens_.push_back(id);
  ++answered_;
  EngineToken token{.id = id, .text = answer_.push(id)};
  if (request_.log_probs >= 0) {
    token.log_prob = kernels::log_prob(logits.row(row), id);
    token.likeliest = kernels::top_log_probs(logits.row(row), request_.log_probs);
  }
  {
    const std::lock_guard lock(telling_);
    if (finished_) return false;
    listener_->token(std::move(token));
  }
  if (answer_.stopped())
    finish(EngineFinish::kStopString);
  else if (answered_ >= request_.max_tokens)
    finish(EngineFinish::kLength);
  else if (answered_ >= room_)
    finish(EngineFinish::kContextFull);
  return !finished_;
}

void Running::add_hidden(const float* rows, int n, int width) {
  hidden_sum_.resize(static_cast<std::size_t>(width));
  for (int row = 0; row < n; ++row)
    for (int i = 0; i < width; ++i)
      hidden_sum_[static_cast<std::size_t>(i)] +=
          static_cast<double>(rows[static_cast<std::ptrdiff_t>(row) * width + i]);
  if (unread() == 0) finish(EngineFinish::kEnd);
}

void Running::finish(EngineFinish reason, std::string error, bool out_of_memory) {
  // They go here, where nothing is locked: whoever listens may own what asks us back.
  std::shared_ptr<EngineListener> listener;
  EmbeddingDone embedding_done;
  const std::lock_guard lock(telling_);
  finish_locked(reason, std::move(error), out_of_memory);
  listener = std::move(listener_);
  embedding_done = std::move(embedding_done_);
}

bool Running::fail(const std::string& error) {
  std::shared_ptr<EngineListener> listener;
  EmbeddingDone embedding_done;
  const std::unique_lock lock(telling_, std::try_to_lock);
  if (!lock) return false;
  finish_locked(EngineFinish::kFailed, error, false);
  listener = std::move(listener_);
  embedding_done = std::move(embedding_done_);
  return true;
}

void Running::finish_locked(EngineFinish reason, std::string error,
                            bool out_of_memory) {
  if (finished_.exchange(true)) return;
  if (embedding_done_) {
    double squares = 0;
    for (const double x : hidden_sum_) squares += x * x;
    std::vector<float> vector;
    if (reason == EngineFinish::kEnd && !(squares > 0 && std::isfinite(squares)))
      error = "the model gave values that are no numbers";
    else if (reason == EngineFinish::kEnd)
      for (const double x : hidden_sum_)
        vector.push_back(static_cast<float>(x / std::sqrt(squares)));
    else if (error.empty())
      error = "cancelled";
    embedding_done_(std::move(vector), std::move(error));
    return;
  }
  EngineResult result{.finish = reason,
                      .stop_string = answer_.stop_string(),
                      .error = std::move(error),
                      .out_of_memory = out_of_memory,
                      .use = {.prompt_tokens = prompt_tokens_,
                              .cached_tokens = cached_tokens_,
                              .completion_tokens = answered_}};
  if (reason != EngineFinish::kCancelled && reason != EngineFinish::kFailed)
    result.rest = answer_.finish();
  listener_->finished(std::move(result));
}

}  // namespace optiq::generation
