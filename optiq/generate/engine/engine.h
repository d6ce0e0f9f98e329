// Many requests at once under one model: what is asked of an engine, and what it tells.
#pragma once
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "optiq/cache/page_store.h"
#include "optiq/generate/engine/token_policy.h"
#include "optiq/kernels/sampling/sampling.h"
#include "optiq/models/adapter.h"

namespace optiq::generation {

/// The queue is full, or the engine takes no more requests. Trying again may help.
class EngineBusy : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A prompt that leaves no room for an answer.
class PromptTooLong : public std::invalid_argument {
 public:
  PromptTooLong(int prompt_tokens, int context_length);

  int prompt_tokens;
  int context_length;
};

struct EngineRequest {
  std::vector<int> prompt;
  int max_tokens = 256;  // what the context has no room for is cut off silently
  kernels::SamplingOptions sampling{};  // greedy unless it has a temperature
  std::uint64_t seed = 0;
  std::set<int> stop_ids{};                 // beside the model's own
  std::vector<std::string> stop_strings{};  // not part of the text
  bool ignore_eos = false;                  // the model's own do not stop it
  int log_probs = -1;  // of each token, and of so many likeliest; -1: none
  std::unique_ptr<TokenPolicy> policy{};  // null: any token may come

  /// Lengths of beginnings of the prompt that later prompts may share: where messages
  /// end. Hints, ascending.
  std::vector<int> boundaries{};

  /// Changes the model's answer to this request; null: the base answers.
  models::AdapterPtr adapter{};

  /// Prompts are found in the prefix cache only among those with the same salt.
  std::string salt{};
};

struct EngineToken {
  int id = -1;
  std::string text;    // that this token settles; often empty
  float log_prob = 0;  // where asked for: of what the model said,
  std::vector<kernels::TokenLogProb> likeliest{};  // before sampling options act
};

enum class EngineFinish {
  kEnd,  // an end token of the model, a stop id, or the policy's end
  kStopString,
  kLength,       // max_tokens
  kContextFull,  // no room behind the last token
  kCancelled,
  kFailed,
};

struct EngineUse {
  int prompt_tokens = 0;
  int cached_tokens = 0;  // of the prompt, taken from the prefix cache
  int completion_tokens = 0;
};

struct EngineResult {
  EngineFinish finish = EngineFinish::kEnd;
  std::string rest{};          // text held back until now
  std::string stop_string{};   // that was found
  std::string error{};         // kFailed: one line
  bool out_of_memory = false;  // kFailed for want of cache: trying again may help
  EngineUse use{};
};

/// Hears about one request, on the engine's thread: calls must be quick and not throw.
/// `finished` is the last call and always comes, once.
class EngineListener {
 public:
  virtual ~EngineListener() = default;

  /// The request left the queue; so many tokens of its prompt were cached.
  virtual void started(int cached_tokens) {}
  virtual void token(EngineToken token) = 0;
  virtual void finished(EngineResult result) = 0;
};

/// What an engine is doing, for /health and /metrics.
struct EngineStatus {
  int running = 0;  // requests in prefill or decoding
  int waiting = 0;
  std::uint64_t steps = 0;      // forward calls so far
  double since_progress_s = 0;  // since the last of them, while there is work; else 0
  std::uint64_t prompt_tokens = 0;  // taken in, without cached ones
  std::uint64_t cached_tokens = 0;
  std::uint64_t completion_tokens = 0;
  std::uint64_t drafted_tokens = 0;   // guesses that were checked
  std::uint64_t accepted_tokens = 0;  // those that held
  std::uint64_t failed = 0;
  std::uint64_t cancelled = 0;
  cache::PageStoreUse pages;
  std::uint64_t budget_bytes = 0;
  std::uint64_t prefix_bytes = 0;  // held by the prefix cache alone
  int prefix_entries = 0;
  bool loaded = true;  // false: unloaded for being idle
};

/// Threads   all members from any thread.
class Engine {
 public:
  virtual ~Engine() = default;

  /// Queues a request. `listener` is held until it has heard `finished`.
  ///
  /// Returns   a number for cancel()
  /// Throws    EngineBusy; PromptTooLong; std::invalid_argument for options or ids out
  ///           of range: nothing is queued then, and the listener hears nothing
  virtual std::uint64_t submit(EngineRequest request,
                               std::shared_ptr<EngineListener> listener) = 0;

  /// Ends a request within a step: it finishes as kCancelled, if it has not finished.
  virtual void cancel(std::uint64_t id) = 0;

  /// The mean of the last hidden states of a text, of length 1. `done` is called once
  /// on the engine's thread: with the vector, or empty and an error.
  ///
  /// Throws    as submit()
  virtual std::uint64_t embed(
      std::vector<int> tokens,
      std::function<void(std::vector<float> vector, std::string error)> done) = 0;

  virtual EngineStatus status() const = 0;

  /// Tokens that prompt and answer may have together.
  virtual int context_length() const = 0;
};

}  // namespace optiq::generation
