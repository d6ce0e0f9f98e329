#include "optiq/eval/case_task.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <map>
#include <stdexcept>

#include "optiq/base/error.h"
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

// A case as ids.
struct Encoded {
  std::vector<int> prompt;
  std::vector<int> target;
  std::size_t size() const { return prompt.size() + target.size(); }
};

Encoded encode(const LoadedModel& model, const Case& c) {
  return {prompt_of(model, c),
          model.tokenizer->encode(c.target, {.parse_special = true})};
}

Encoded encode_checked(const LoadedModel& model, const Case& c) {
  Encoded ids = encode(model, c);
  const int limit = model.model->config().max_position_embeddings;
  if (ids.prompt.empty() || ids.target.empty())
    throw std::invalid_argument(
        fmt::format("case {}: expected a prompt and a target of at least one token, "
                    "found {} and {}",
                    c.id, ids.prompt.size(), ids.target.size()));
  if (ids.size() > static_cast<std::size_t>(limit))
    throw ResourceError(
        fmt::format("case {}: the model's context has room for {} tokens, found {} of "
                    "the prompt and {} of the target",
                    c.id, limit, ids.prompt.size(), ids.target.size()));
  return ids;
}

CaseAnswer run_case(LoadedModel& model, const Case& c, const Encoded& ids,
                    const CaseOptions& options) {
  CaseAnswer answer;
  answer.id = c.id;
  answer.length = c.length;
  answer.hops = c.hops;
  score_target(
      *model.model, ids.prompt, ids.target,
      {options.exact ? kernels::Activation::kExact : kernels::Activation::kInt8,
       options.cache},
      answer);
  if (!options.generate) return answer;
  Request request;
  request.prompt = ids.prompt;
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

int token_count(const LoadedModel& model, const Case& c) {
  return static_cast<int>(encode(model, c).size());
}

std::vector<CaseAnswer> run_cases(LoadedModel& model, const std::vector<Case>& cases,
                                  const CaseOptions& options) {
  std::vector<Encoded> encoded;
  for (const Case& c : cases) {
    throw_if_interrupted();
    encoded.push_back(encode_checked(model, c));
  }
  std::vector<CaseAnswer> answers;
  for (std::size_t i = 0; i < cases.size(); ++i) {
    throw_if_interrupted();
    answers.push_back(run_case(model, cases[i], encoded[i], options));
    if (options.on_progress) options.on_progress(answers.size(), cases.size());
  }
  return answers;
}

CaseScore score(const std::vector<CaseAnswer>& answers) {
  CaseScore result;
  result.n = static_cast<int>(answers.size());
  for (const CaseAnswer& answer : answers) {
    result.correct += answer.correct ? 1 : 0;
    result.answer_nll += answer.nll;
    result.answer_margin += answer.margin;
  }
  const double n = std::max(result.n, 1);
  result.accuracy = result.correct / n;
  result.answer_nll /= n;
  result.answer_margin /= n;
  result.interval = wilson_interval(result.correct, result.n);
  return result;
}

std::vector<PartScore> score_by(const std::vector<CaseAnswer>& answers,
                                int CaseAnswer::*member) {
  std::map<int, std::vector<CaseAnswer>> parts;
  for (const CaseAnswer& answer : answers) parts[answer.*member].push_back(answer);
  std::vector<PartScore> scores;
  for (const auto& [value, part] : parts) scores.push_back({value, score(part)});
  return scores;
}

}  // namespace optiq::eval
