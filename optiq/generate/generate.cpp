#include "optiq/generate/generate.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>

#include "optiq/base/error.h"
#include "optiq/base/signal.h"
#include "optiq/generate/answer_text.h"
#include "optiq/generate/next_logits.h"
#include "optiq/generate/session.h"

namespace optiq {
namespace {

namespace mx = mlx::core;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// The part of the prompt that the session does not hold yet.
std::span<const int> rest_of_prompt(const generation::Session& session,
                                    const Request& request) {
  const std::span<const int> prompt(request.prompt);
  const auto& held = session.tokens();
  if (prompt.size() < held.size() ||
      !std::equal(held.begin(), held.end(), prompt.begin()))
    throw std::invalid_argument("the prompt does not begin with the session's tokens");
  return prompt.subspan(held.size());
}

}  // namespace

const char* name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kInterrupted:
      return "interrupted";
  }
  return "?";
}

generation::Session new_session(LoadedModel& model, const Request& request) {
  return generation::Session(
      *model.model, request.exact ? generation::exact_session(request.cache)
                                  : generation::SessionOptions{.cache = request.cache});
}

GenerateResult generate(LoadedModel& model, const Request& request,
                        const OnToken& on_token) {
  generation::Session session = new_session(model, request);
  return generate(model, session, request, on_token);
}

GenerateResult generate(LoadedModel& loaded, generation::Session& session,
                        const Request& request, const OnToken& on_token) {
  if (!request.stop_strings.empty() && !loaded.tokenizer)
    throw std::invalid_argument("stop strings need a model that has a tokenizer");
  const int limit = loaded.model->config().max_position_embeddings;
  const std::span<const int> rest = rest_of_prompt(session, request);

  const int held = session.length();
  session.on_chunk([&](int) {
    if (request.on_prefill) request.on_prefill(session.length());
  });
  const Clock::time_point start = Clock::now();
  mx::array logits = session.feed(rest);
  session.on_chunk({});
  GenerateResult result;
  result.prompt_tokens = static_cast<int>(request.prompt.size());
  result.prefill_tps = (session.length() - held) / seconds_since(start);

  generation::AnswerText answer(loaded.tokenizer ? &*loaded.tokenizer : nullptr,
                                request.stop_strings);
  kernels::Sampler sampler(request.sampling, request.seed);
  const auto stops = [&](int id) {
    return (!request.ignore_eos && loaded.eos_ids.contains(id)) ||
           request.stop_ids.contains(id);
  };
  const auto emit = [&](int id, std::string text) {
    return !on_token || on_token({id, std::move(text)});
  };

  const Clock::time_point decode_start = Clock::now();
  generation::NextLogits next(
      session, request.draft,
      request.exact ? kernels::Activation::kExact : kernels::Activation::kInt8);
  std::vector<int> history = session.tokens();
  int steps = 0;
  while (static_cast<int>(result.tokens.size()) < request.max_tokens) {
    const int id = steps == 0
                       ? sampler.sample({logits.data<float>(), logits.size()}, history)
                       : next.sample(sampler, history);
    if (stops(id)) {
      result.finish_reason = FinishReason::kStop;
      break;
    }
    result.tokens.push_back(id);
    const bool go_on = emit(id, answer.push(id));
    if (answer.stopped() || !go_on || interrupted()) {
      result.finish_reason = answer.stopped() ? FinishReason::kStop
                             : !go_on         ? FinishReason::kCancelled
                                              : FinishReason::kInterrupted;
      break;
    }
    const int length = static_cast<int>(history.size());
    const int more = std::min(
        request.max_tokens - static_cast<int>(result.tokens.size()), limit - length);
    if (more == 0) break;
    history.push_back(id);
    try {
      next.go_on(history, more - 1, sampler);
    } catch (const Interrupted&) {
      result.finish_reason = FinishReason::kInterrupted;
      break;
    }
    ++steps;
  }
  next.settle(static_cast<int>(history.size()));
  if (steps > 0) result.decode_tps = steps / seconds_since(decode_start);
  result.drafted_tokens = next.drafted();
  result.accepted_tokens = next.accepted();
  if (const std::string held_text = answer.finish();
      !held_text.empty() && result.finish_reason != FinishReason::kCancelled)
    emit(result.tokens.back(), held_text);
  result.text = answer.text();
  result.completion_tokens = static_cast<int>(result.tokens.size());
  return result;
}

std::vector<int> encode_chat(const LoadedModel& model,
                             const nlohmann::ordered_json& messages,
                             const text::ChatOptions& options) {
  if (!model.chat_template)
    throw std::invalid_argument(
        model.directory.string() +
        ": the model has no chat template; give it plain text instead (--raw)");
  return model.tokenizer->encode(model.chat_template->render(messages, options));
}

std::vector<int> encode_raw(const LoadedModel& model, const std::string& text) {
  return model.tokenizer->encode(text,
                                 {.add_special_tokens = true, .parse_special = true});
}

}  // namespace optiq
