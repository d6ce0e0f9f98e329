#include "optiq/eval/case_task.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "optiq/base/signal.h"
#include "optiq/eval/token_scores.h"
#include "optiq/eval/windows.h"
#include "optiq/generate/generate.h"

namespace optiq::eval {
namespace {

// Likelihood and least margin of `target` after `prompt`, in one forward call.
void score_target(models::Model& model, const std::vector<int>& prompt,
                  const std::vector<int>& target, const ForwardOptions& options,
                  CaseAnswer& answer) {
  std::vector<int> ids = prompt;
  ids.insert(ids.end(), target.begin(), target.end());
  const int first = static_cast<int>(prompt.size()) - 1;  // predicts target[0]
  const int end = static_cast<int>(ids.size()) - 1;
  WindowBatch batch;
  batch.ids.assign(ids.begin(), ids.end() - 1);
  batch.lengths = {static_cast<int>(batch.ids.size())};
  const mx::array hidden = hidden_of(model, batch, options);
  answer.margin = std::numeric_limits<double>::infinity();
  const int step = head_rows(model);
  for (int begin = first; begin < end; begin += step) {
    const int stop = std::min(begin + step, end);
    const mx::array logits = head_of(model, hidden, begin, stop, options.activation);
    const auto scores = score_tokens(
        logits, std::span(target).subspan(static_cast<std::size_t>(begin - first),
                                          static_cast<std::size_t>(stop - begin)));
    for (const TokenScore& score : scores) {
      answer.nll += score.nll;
      answer.margin = std::min(answer.margin, score.margin);
    }
  }
  answer.nll /= static_cast<double>(target.size());
}

CaseAnswer run_case(LoadedModel& model, const Case& c, const CaseOptions& options) {
  const std::vector<int> prompt = prompt_of(model, c);
  const std::vector<int> target =
      model.tokenizer->encode(c.target, {.parse_special = true});
  const auto length = static_cast<int>(prompt.size() + target.size());
  const int limit = model.model->config().max_position_embeddings;
  if (prompt.empty() || target.empty() || length > limit)
    throw std::invalid_argument(fmt::format(
        "case {}: expected a prompt and a target of at least one token and at most {} "
        "together, found {} and {}",
        c.id, limit, prompt.size(), target.size()));
  CaseAnswer answer;
  answer.id = c.id;
  score_target(
      *model.model, prompt, target,
      {options.exact ? kernels::Activation::kExact : kernels::Activation::kInt8,
       options.cache},
      answer);
  if (!options.generate) return answer;
  Request request;
  request.prompt = prompt;
  request.max_tokens = c.max_new_tokens;
  request.exact = options.exact;
  if (options.cache) request.cache = *options.cache;
  const GenerateResult result = generate(model, request);
  if (result.finish_reason == FinishReason::kInterrupted) throw_if_interrupted();
  answer.output = result.text;
  answer.correct = is_correct(*c.scorer, result.text, c.answer);
  return answer;
}

}  // namespace

double CaseResult::accuracy() const {
  return answers.empty()
             ? 0
             : static_cast<double>(correct) / static_cast<double>(answers.size());
}

std::vector<int> prompt_of(const LoadedModel& model, const Case& c) {
  const bool render = !c.messages.is_null() && model.chat_template;
  if (!render && c.prompt.empty())
    throw std::invalid_argument(
        fmt::format("case {}: expected a prompt, for the model has no chat template; "
                    "found messages",
                    c.id));
  if (!render) return encode_raw(model, c.prompt);
  text::ChatOptions options;
  options.tools = c.tools;
  options.enable_thinking = c.enable_thinking;
  return encode_chat(model, c.messages, options);
}

CaseResult run_cases(LoadedModel& model, const std::vector<Case>& cases,
                     const CaseOptions& options) {
  CaseResult result;
  for (const Case& c : cases) {
    throw_if_interrupted();
    result.answers.push_back(run_case(model, c, options));
    const CaseAnswer& answer = result.answers.back();
    result.correct += answer.correct ? 1 : 0;
    result.answer_nll += answer.nll;
    result.answer_margin += answer.margin;
    if (options.on_progress) options.on_progress(result.answers.size(), cases.size());
  }
  const auto n = static_cast<double>(cases.size());
  result.answer_nll /= n;
  result.answer_margin /= n;
  result.interval = wilson_interval(result.correct, static_cast<std::int64_t>(n));
  return result;
}

}  // namespace optiq::eval
