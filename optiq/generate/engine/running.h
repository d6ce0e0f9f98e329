// One request from the queue to its last token.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <vector>

#include "optiq/cache/sequence_state.h"
#include "optiq/generate/answer_text.h"
#include "optiq/generate/draft/draft.h"
#include "optiq/generate/engine/engine.h"
#include "optiq/generate/loaded_model.h"
#include "optiq/generate/step_logits.h"

namespace optiq::generation {

/// Called with the vector of a text, or none and an error.
using EmbeddingDone = std::function<void(std::vector<float>, std::string)>;

/// Threads   members of the engine's thread, but for cancel(), cancelled() and fail().
class Running {
 public:
  Running(std::uint64_t id, EngineRequest request,
          std::shared_ptr<EngineListener> listener, const LoadedModel& model,
          int context_length);

  /// A text whose embedding is asked for.
  Running(std::uint64_t id, std::vector<int> tokens, EmbeddingDone done,
          const LoadedModel& model, int context_length);

  std::uint64_t id() const { return id_; }
  /// What besides the tokens decides what a state holds: the caller's salt and the
  /// load of the adapter.
  const std::string& salt() const { return salt_; }
  /// Its tokens turn by the rotary frequencies for long sequences: prompt and answer
  /// may take so many.
  bool turns_long() const { return turns_long_; }
  const models::AdapterPtr& adapter() const { return request_.adapter; }

  /// Prompt and answer; the state has read the first of them.
  std::span<const int> tokens() const { return tokens_; }
  int unread() const;
  bool in_prompt() const { return answered_ == 0; }

  /// Lengths of the prompt at which the prefix cache keeps a copy, ascending: multiples
  /// of kCutTokens.
  const std::vector<int>& stops() const { return stops_; }

  void begin(cache::SequenceState state, int cached_tokens);
  bool has_state() const { return state_.has_value(); }
  cache::SequenceState& state() { return *state_; }
  void drop_state() { state_.reset(); }

  /// Chooses the next token from the logits behind the last one, and tells it.
  ///
  /// Returns   true if the answer goes on
  bool choose(StepLogits& logits, int row);

  bool has_draft() const { return draft_ != nullptr; }
  /// Guesses are made from now on, at most `most` at a time.
  void set_draft(std::unique_ptr<Draft> draft, int most);

  /// How it will choose from the rows of a step from `first` on.
  std::vector<kernels::RowDraw> draws(int first, int rows) const {
    return draws_of(sampler_, first, rows);
  }

  /// Guesses at what follows, for the next step to check; none without a draft.
  std::span<const int> guess(int most);

  /// Chooses tokens from the logits behind the last one and behind each guess, as long
  /// as the guesses hold; what the state has read of the others is taken back.
  ///
  /// Requires  1 + guesses rows from `row` on
  /// Returns   guesses that held
  int choose_all(StepLogits& logits, int row);

  bool wants_hidden() const { return wants_hidden_; }

  /// Adds rows of hidden states to the mean; the last ones end the request.
  void add_hidden(const float* rows, int n, int width);

  /// The request ends, if it has not: the listener is told.
  void finish(EngineFinish reason, std::string error = {}, bool out_of_memory = false);

  /// From another thread: the same for a request on which the engine is stuck. False if
  /// the listener is being told something right now.
  bool fail(const std::string& error);

  void cancel() { cancelled_ = true; }
  bool cancelled() const { return cancelled_; }
  bool finished() const { return finished_; }

  int passed_over = 0;  // prefill calls that went to others

 private:
  int sample(StepLogits& logits, int row);
  bool tell(int id, StepLogits& logits, int row);
  void finish_locked(EngineFinish reason, std::string error, bool out_of_memory);

  const std::uint64_t id_;
  EngineRequest request_;
  std::string salt_;
  std::shared_ptr<EngineListener> listener_;
  EmbeddingDone embedding_done_;
  bool wants_hidden_ = false;
  bool turns_long_ = false;
  const std::set<int>& eos_ids_;
  std::vector<int> tokens_;
  std::vector<int> stops_;
  int prompt_tokens_;
  int room_;  // for answer tokens
  int answered_ = 0;
  int cached_tokens_ = 0;
  bool started_ = false;
  std::optional<cache::SequenceState> state_;
  std::unique_ptr<Draft> draft_;
  DraftLength draft_length_{0};
  std::vector<int> guess_;
  kernels::Sampler sampler_;
  AnswerText answer_;
  std::vector<std::uint32_t> mask_;
  std::vector<float> masked_;
  std::vector<double> hidden_sum_;
  std::atomic<bool> cancelled_ = false;
  std::mutex telling_;  // held while the listener is called
  std::atomic<bool> finished_ = false;
};

}  // namespace optiq::generation
