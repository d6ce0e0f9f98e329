#include "optiq/server/testing/scripted_engine.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>
#include <variant>

#include "optiq/generate/answer_text.h"

namespace optiq::server::testing {
namespace {

using generation::EngineFinish;

struct Directive {
  std::string name, value;
};
using Step = std::variant<int, Directive>;  // a token, or what happens before the next

std::string script_of(const std::string& prompt) {
  const auto open = prompt.rfind("[[");
  if (open == std::string::npos) return "ok";
  const auto close = prompt.find("]]", open);
  return prompt.substr(open + 2, close == std::string::npos ? close : close - open - 2);
}

std::vector<Step> steps_of(const text::Tokenizer& tokenizer, std::string_view script) {
  std::vector<Step> steps;
  const auto add_text = [&](std::string_view text) {
    for (const int id : tokenizer.encode(text, {.parse_special = true}))
      steps.emplace_back(id);
  };
  while (!script.empty()) {
    const auto open = script.find("{!");
    add_text(script.substr(0, open));
    if (open == std::string_view::npos) break;
    const auto close = script.find('}', open);
    const std::string text(script.substr(open + 2, close - open - 2));
    const auto equals = text.find('=');
    steps.emplace_back(
        Directive{text.substr(0, equals),
                  equals == std::string::npos ? "" : text.substr(equals + 1)});
    script = close == std::string_view::npos ? "" : script.substr(close + 1);
  }
  return steps;
}

bool has(const std::vector<Step>& steps, std::string_view name) {
  return std::ranges::any_of(steps, [&](const Step& step) {
    const auto* directive = std::get_if<Directive>(&step);
    return directive && directive->name == name;
  });
}

}  // namespace

struct ScriptedEngine::Answer {
  std::uint64_t id;
  generation::EngineRequest request;
  std::shared_ptr<generation::EngineListener> listener;
  std::vector<Step> steps;
  int cached_tokens = 0;
  std::atomic<bool> cancelled = false;
  std::atomic<bool> over = false;
  std::thread thread;
};

ScriptedEngine::ScriptedEngine(std::shared_ptr<const text::Tokenizer> tokenizer,
                               std::set<int> end_ids, int vocab_size,
                               int context_length)
    : tokenizer_(std::move(tokenizer)),
      end_ids_(std::move(end_ids)),
      vocab_size_(vocab_size),
      context_length_(context_length) {}

ScriptedEngine::~ScriptedEngine() {
  std::vector<std::shared_ptr<Answer>> answers;
  {
    const std::lock_guard lock(mutex_);
    answers.swap(answers_);
    for (const auto& answer : answers) answer->cancelled = true;
  }
  changed_.notify_all();
  for (const auto& answer : answers)
    if (answer->thread.joinable()) answer->thread.join();
}

std::uint64_t ScriptedEngine::submit(
    generation::EngineRequest request,
    std::shared_ptr<generation::EngineListener> listener) {
  if (static_cast<int>(request.prompt.size()) >= context_length_)
    throw generation::PromptTooLong(static_cast<int>(request.prompt.size()),
                                    context_length_);
  if (request.prompt.empty()) throw std::invalid_argument("expected a prompt");
  for (const int id : request.prompt)
    if (id < 0 || id >= vocab_size_) throw std::invalid_argument("expected token ids");
  const kernels::Sampler check(request.sampling, request.seed);
  auto answer = std::make_shared<Answer>();
  answer->steps = steps_of(*tokenizer_, script_of(tokenizer_->decode(request.prompt)));
  if (has(answer->steps, "busy")) throw generation::EngineBusy("the queue is full");
  answer->request = std::move(request);
  answer->listener = std::move(listener);
  std::unique_lock lock(mutex_);
  answer->id = next_id_++;
  const auto& prompt = answer->request.prompt;
  for (const auto& seen : prompts_) {
    const auto n =
        static_cast<std::ptrdiff_t>(std::min(seen.size(), prompt.size() - 1));
    const auto common =
        std::mismatch(prompt.begin(), prompt.begin() + n, seen.begin()).first -
        prompt.begin();
    answer->cached_tokens = std::max(answer->cached_tokens, static_cast<int>(common));
  }
  prompts_.push_back(prompt);
  if (prompts_.size() > 256) prompts_.erase(prompts_.begin());
  std::erase_if(answers_, [](const auto& old) {
    if (old->over && old->thread.joinable()) old->thread.join();
    return old->over.load();
  });
  ++status_.running;
  answers_.push_back(answer);
  if (has(answer->steps, "at_once")) {
    lock.unlock();
    run(*answer);
  } else {
    answer->thread = std::thread([this, answer] { run(*answer); });
  }
  return answer->id;
}

void ScriptedEngine::run(Answer& answer) {
  auto& request = answer.request;
  generation::AnswerText text(&*tokenizer_, request.stop_strings);
  generation::EngineResult result;
  result.use = {static_cast<int>(request.prompt.size()), answer.cached_tokens, 0};
  std::chrono::milliseconds delay{0};
  int& n = result.use.completion_tokens;
  const int room = context_length_ - result.use.prompt_tokens;
  const auto wait = [&](std::chrono::milliseconds time) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, time, [&] { return answer.cancelled.load(); });
  };
  // False if the answer is over.
  const auto emit = [&](int id) {
    if (delay.count() > 0) wait(delay);
    if (answer.cancelled) {
      result.finish = EngineFinish::kCancelled;
      return false;
    }
    if (end_ids_.contains(id) && !request.ignore_eos) return false;
    if (request.stop_ids.contains(id)) return false;
    if (request.policy) request.policy->accept(id);
    generation::EngineToken token{.id = id, .text = text.push(id)};
    if (request.log_probs >= 0) {
      token.log_prob = -0.5f;
      for (int i = 0; i < request.log_probs; ++i)
        token.likeliest.push_back(
            {i == 0 ? id : 300 + i, -0.5f - static_cast<float>(i)});
    }
    answer.listener->token(std::move(token));
    ++n;
    const bool full = n >= room;
    if (text.stopped())
      result.finish = EngineFinish::kStopString;
    else if (n >= request.max_tokens)
      result.finish = EngineFinish::kLength;
    else if (full)
      result.finish = EngineFinish::kContextFull;
    return result.finish == EngineFinish::kEnd;
  };
  // The token that the policy lets come in the place of this one; -1 for the end.
  const auto allowed = [&](int id) {
    if (!request.policy) return id;
    if (request.policy->complete()) return -1;
    std::vector<std::uint32_t> mask(static_cast<std::size_t>(vocab_size_ + 31) / 32);
    if (!request.policy->restrict_next(mask)) return id;
    const auto may = [&](int one) {
      return (mask[static_cast<std::size_t>(one) / 32] >> (one % 32) & 1) != 0;
    };
    if (id >= 0 && may(id)) return id;
    // What is open is closed, lest a text goes on for ever.
    for (const char* closing : {"\"", "}", "]"})
      if (const auto one = tokenizer_->token_id(closing); one && may(*one)) return *one;
    for (int one = 0; one < vocab_size_; ++one)
      if (may(one) && !end_ids_.contains(one)) return one;
    return -1;
  };
  answer.listener->started(answer.cached_tokens);
  bool goes_on = request.max_tokens > 0;
  if (!goes_on) result.finish = EngineFinish::kLength;
  for (const Step& step : answer.steps) {
    if (!goes_on) break;
    if (const auto* directive = std::get_if<Directive>(&step)) {
      if (directive->name == "delay")
        delay = std::chrono::milliseconds(std::atoi(directive->value.c_str()));
      if (directive->name == "hang") wait(std::chrono::hours(1));
      if (directive->name == "fail" || directive->name == "no_room") {
        result.finish = EngineFinish::kFailed;
        result.error = directive->value.empty() ? "no room" : directive->value;
        result.out_of_memory = directive->name == "no_room";
        goes_on = false;
      }
      if (directive->name == "full") {
        result.finish = EngineFinish::kContextFull;
        goes_on = false;
      }
      continue;
    }
    const int id = allowed(std::get<int>(step));
    goes_on = id >= 0 && emit(id);
  }
  // What a policy still demands, within reason.
  for (int i = 0; goes_on && request.policy && i < 4096; ++i) {
    std::vector<std::uint32_t> mask(static_cast<std::size_t>(vocab_size_ + 31) / 32);
    if (request.policy->complete() || !request.policy->restrict_next(mask)) break;
    const bool may_end = std::ranges::any_of(end_ids_, [&](int id) {
      return (mask[static_cast<std::size_t>(id) / 32] >> (id % 32) & 1) != 0;
    });
    const int id = may_end ? -1 : allowed(-1);
    if (id < 0) break;
    goes_on = emit(id);
  }
  if (answer.cancelled) result.finish = EngineFinish::kCancelled;
  result.stop_string = text.stop_string();
  if (result.finish != EngineFinish::kCancelled &&
      result.finish != EngineFinish::kFailed)
    result.rest = text.finish();
  {
    const std::lock_guard lock(mutex_);
    --status_.running;
    ++status_.steps;
    status_.prompt_tokens += static_cast<std::uint64_t>(result.use.prompt_tokens);
    status_.completion_tokens += static_cast<std::uint64_t>(n);
  }
  answer.listener->finished(std::move(result));
  answer.listener.reset();
  answer.over = true;
}

void ScriptedEngine::cancel(std::uint64_t id) {
  {
    const std::lock_guard lock(mutex_);
    for (const auto& answer : answers_)
      if (answer->id == id) answer->cancelled = true;
  }
  changed_.notify_all();
}

std::uint64_t ScriptedEngine::embed(
    std::vector<int> tokens,
    std::function<void(std::vector<float>, std::string)> done) {
  if (static_cast<int>(tokens.size()) >= context_length_)
    throw generation::PromptTooLong(static_cast<int>(tokens.size()), context_length_);
  std::thread([done = std::move(done), n = tokens.size()] {
    const float x = n % 2 ? 0.6f : 0.8f;
    done({x, x == 0.6f ? 0.8f : 0.6f, 0.0f}, "");
  }).detach();
  return 0;
}

generation::EngineStatus ScriptedEngine::status() const {
  const std::lock_guard lock(mutex_);
  return status_;
}

}  // namespace optiq::server::testing
