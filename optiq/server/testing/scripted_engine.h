// An engine for tests, whose answers stand in the prompts.
#pragma once
#include <condition_variable>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "optiq/generate/engine/engine.h"
#include "optiq/text/tokenizer.h"

namespace optiq::server::testing {

/// The answer is what stands between the last "[[" of the prompt and the "]]" behind
/// it, token by token, as the model's tokenizer cuts it (control tokens are control
/// tokens); "ok" if there is none. Inside of it are directives, which are no part of
/// the text:
///
///   {!delay=20}     from here on, so many milliseconds before each token
///   {!fail=text}    here the answer fails with this message
///   {!no_room}      here it fails for want of memory
///   {!busy}         the request is refused: the queue is full
///   {!at_once}      the whole answer is told before the request is admitted
///   {!full}         here the context is full
///   {!hang}         here nothing comes any more, until it is cancelled
///
/// Stop strings, stop ids, max_tokens, log-probabilities (-0.5 for each token, and
/// made-up others), and policies are honoured: a token that may not come is replaced by
/// one that may, and after the script only what the policy demands goes on.
///
/// Threads   any.
class ScriptedEngine final : public generation::Engine {
 public:
  ScriptedEngine(std::shared_ptr<const text::Tokenizer> tokenizer,
                 std::set<int> end_ids, int vocab_size, int context_length);
  ~ScriptedEngine() override;

  std::uint64_t submit(generation::EngineRequest request,
                       std::shared_ptr<generation::EngineListener> listener) override;
  void cancel(std::uint64_t id) override;
  std::uint64_t embed(
      std::vector<int> tokens,
      std::function<void(std::vector<float>, std::string)> done) override;
  generation::EngineStatus status() const override;
  int context_length() const override { return context_length_; }

 private:
  struct Answer;
  void run(Answer& answer);

  const std::shared_ptr<const text::Tokenizer> tokenizer_;
  const std::set<int> end_ids_;
  const int vocab_size_;
  const int context_length_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::shared_ptr<Answer>> answers_;
  std::vector<std::vector<int>> prompts_;  // seen so far
  generation::EngineStatus status_;
  std::uint64_t next_id_ = 1;
};

}  // namespace optiq::server::testing
