// A prompt goes in, tokens come out one by one: the library's main call.
#pragma once
#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "optiq/generate/draft/draft.h"
#include "optiq/generate/loaded_model.h"
#include "optiq/generate/session.h"
#include "optiq/kernels/sampling/sampling.h"

namespace optiq {

struct Request {
  std::vector<int> prompt;
  int max_tokens = 256;
  kernels::SamplingOptions sampling;  // greedy unless it has a temperature
  std::uint64_t seed = 0;
  std::set<int> stop_ids;                    // beside the model's own
  std::vector<std::string> stop_strings;     // need a tokenizer
  bool ignore_eos = false;                   // the model's own do not stop it
  bool exact = false;                        // float32 activations and cache
  cache::CacheOptions cache;                 // of a session made for this request
  generation::DraftOptions draft;            // guesses; the answer is the same
  std::function<void(int done)> on_prefill;  // tokens of the prompt taken in
};

enum class FinishReason { kStop, kLength, kCancelled, kInterrupted };

/// "stop", "length", "cancelled", "interrupted".
const char* name(FinishReason reason);

struct GeneratedToken {
  int id;
  std::string text;  // that this token settles; often empty; the last call may carry
                     // what was held back
};

/// Called with each token as it comes; false ends the answer (kCancelled).
using OnToken = std::function<bool(const GeneratedToken&)>;

struct GenerateResult {
  std::vector<int> tokens;  // without the one that stopped it
  std::string text;         // empty without a tokenizer
  FinishReason finish_reason = FinishReason::kLength;
  int prompt_tokens = 0;
  int completion_tokens = 0;
  double prefill_tps = 0;   // tokens per second
  double decode_tps = 0;    // of the tokens after the first; 0 if there are none
  int drafted_tokens = 0;   // guesses that were checked
  int accepted_tokens = 0;  // those that held
};

/// Answers one request. The answer ends at a stop token or stop string, after
/// `max_tokens`, where the model's context ends, or when the user interrupts: then what
/// was produced is returned with kInterrupted.
///
/// Throws    std::invalid_argument for an empty prompt, one longer than
///           max_position_embeddings, ids outside of the vocabulary, or stop strings
///           without a tokenizer; Interrupted during prefill; ResourceError.
/// Threads   one at a time per model.
GenerateResult generate(LoadedModel& model, const Request& request,
                        const OnToken& on_token = {});

/// The same in a session that goes on: `request.prompt` begins with the session's
/// tokens and only the rest is taken in. The session must have been made as `exact`
/// asks.
///
/// Throws    as above; std::invalid_argument if the prompt begins with other tokens, or
///           holds no more than the session.
GenerateResult generate(LoadedModel& model, generation::Session& session,
                        const Request& request, const OnToken& on_token = {});

/// An empty session, as the request asks for it.
generation::Session new_session(LoadedModel& model, const Request& request);

/// The ids of a prompt: `messages` through the model's chat template.
///
/// Throws    std::invalid_argument if the model has no chat template or it refuses.
std::vector<int> encode_chat(const LoadedModel& model,
                             const nlohmann::ordered_json& messages,
                             const text::ChatOptions& options = {});

/// The ids of plain text of the user's own making: special tokens that it spells are
/// special, and the tokenizer's own, such as a first <s>, are added.
std::vector<int> encode_raw(const LoadedModel& model, const std::string& text);

}  // namespace optiq
