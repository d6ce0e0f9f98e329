#include "optiq/server/chat/chat_service.h"

#include <algorithm>
#include <atomic>
#include <random>
#include <stdexcept>

#include "optiq/server/chat/answer_parser.h"
#include "optiq/server/chat/answer_policy.h"
#include "optiq/server/chat/prompt_form.h"

namespace optiq::server {
namespace {

using generation::EngineFinish;

constexpr int kLongestAnswer = 1 << 30;  // the engine ends it where the context does

AnswerEnd::Reason reason_of(EngineFinish finish, int calls) {
  switch (finish) {
    case EngineFinish::kEnd:
      return calls > 0 ? AnswerEnd::Reason::kToolCalls : AnswerEnd::Reason::kEnd;
    case EngineFinish::kStopString:
      return AnswerEnd::Reason::kStopString;
    case EngineFinish::kLength:
      return AnswerEnd::Reason::kLength;
    case EngineFinish::kContextFull:
      return AnswerEnd::Reason::kContextFull;
    case EngineFinish::kCancelled:
      return AnswerEnd::Reason::kCancelled;
    case EngineFinish::kFailed:
      break;
  }
  return AnswerEnd::Reason::kFailed;
}

// Turns one choice's tokens into events.
class Choice final : public generation::EngineListener {
 public:
  Choice(int index, ParserOptions parser, bool shows_reasoning,
         std::shared_ptr<const text::Tokenizer> tokenizer,
         std::shared_ptr<AnswerListener> listener)
      : index_(index),
        parser_(std::move(parser)),
        shows_reasoning_(shows_reasoning),
        tokenizer_(std::move(tokenizer)),
        listener_(std::move(listener)) {}

  void started(int cached_tokens) override {
    listener_->started(index_, cached_tokens);
  }

  void token(generation::EngineToken token) override {
    if (parser_.in_reasoning()) ++reasoning_tokens_;
    if (!token.likeliest.empty() || token.log_prob != 0)
      listener_->token(index_, record_of(token));
    tell(parser_.feed(token.text));
  }

  void finished(generation::EngineResult result) override {
    tell(parser_.feed(result.rest));
    tell(parser_.finish());
    listener_->ended(index_, {.reason = reason_of(result.finish, parser_.calls()),
                              .stop_string = std::move(result.stop_string),
                              .error = std::move(result.error),
                              .may_retry = result.out_of_memory,
                              .use = {.prompt_tokens = result.use.prompt_tokens,
                                      .cached_tokens = result.use.cached_tokens,
                                      .completion_tokens = result.use.completion_tokens,
                                      .reasoning_tokens = reasoning_tokens_}});
  }

 private:
  void tell(std::vector<AnswerEvent> events) {
    for (AnswerEvent& event : events)
      if (shows_reasoning_ || !std::holds_alternative<ReasoningPiece>(event))
        listener_->event(index_, std::move(event));
  }

  std::string bytes_of(int id) const {
    try {
      return tokenizer_->token_bytes(id);
    } catch (const std::invalid_argument&) {
      return "";
    }
  }

  TokenRecord record_of(const generation::EngineToken& token) const {
    TokenRecord record{token.id, bytes_of(token.id), token.log_prob, {}};
    for (const auto& one : token.likeliest)
      record.likeliest.push_back({one.id, bytes_of(one.id), one.log_prob});
    return record;
  }

  const int index_;
  AnswerParser parser_;
  const bool shows_reasoning_;
  const std::shared_ptr<const text::Tokenizer> tokenizer_;
  const std::shared_ptr<AnswerListener> listener_;
  int reasoning_tokens_ = 0;
};

class EngineAnswering final : public Answering {
 public:
  EngineAnswering(std::shared_ptr<generation::Engine> engine, int prompt_tokens)
      : engine_(std::move(engine)), prompt_tokens_(prompt_tokens) {}
  ~EngineAnswering() override { cancel(); }

  void add(std::uint64_t id) { ids_.push_back(id); }

  void cancel() override {
    for (const std::uint64_t id : ids_) engine_->cancel(id);
  }

  int prompt_tokens() const override { return prompt_tokens_; }

 private:
  const std::shared_ptr<generation::Engine> engine_;
  const int prompt_tokens_;
  std::vector<std::uint64_t> ids_;
};

std::size_t common_prefix(const std::string& a, const std::string& b) {
  const auto n = static_cast<std::ptrdiff_t>(std::min(a.size(), b.size()));
  return static_cast<std::size_t>(
      std::mismatch(a.begin(), a.begin() + n, b.begin()).first - a.begin());
}

// How many of the tokens lie in the first `bytes` of their text.
int tokens_within(const text::Tokenizer& tokenizer, const std::vector<int>& tokens,
                  std::size_t bytes) {
  std::size_t at = 0;
  int n = 0;
  for (const int id : tokens) {
    at += tokenizer.token_bytes(id).size();
    if (at > bytes) break;
    ++n;
  }
  return n;
}

bool ends_in_reasoning(std::string_view prompt) {
  while (!prompt.empty() && (prompt.back() == '\n' || prompt.back() == ' '))
    prompt.remove_suffix(1);
  return prompt.ends_with("<think>");
}

text::ChatOptions options_of(const ChatRequest& request) {
  text::ChatOptions options;
  if (!request.tools.empty()) options.tools = request.tools;
  options.continue_final_message = request.continue_final_message;
  options.add_generation_prompt = !request.continue_final_message;
  options.enable_thinking = request.thinking.enabled;
  options.variables = request.template_variables;
  if (!request.thinking.effort.empty() &&
      !options.variables.contains("reasoning_effort"))
    options.variables["reasoning_effort"] = request.thinking.effort;
  // A caller's own variable is the more precise word.
  if (const auto own = options.variables.find("enable_thinking");
      own != options.variables.end() && own->is_boolean()) {
    options.enable_thinking = own->get<bool>();
    options.variables.erase("enable_thinking");
  }
  return options;
}

DeclaredTools declared(const Json& tools) {
  DeclaredTools all;
  for (const Json& tool : tools) {
    const Json& function = tool.at("function");
    all[function.at("name").get<std::string>()] =
        function.value("parameters", Json(Json::object()));
  }
  return all;
}

}  // namespace

/// What is found out about a model once.
struct ChatService::Found {
  TemplateTraits traits;
  const ToolFormat* format = nullptr;
  mutable CallConstraints calls;
};

ChatService::ChatService(ServedModel model) : model_(std::move(model)) {
  if (!model_.chat_template) return;
  const auto found = std::make_shared<Found>();
  found->traits = traits_of(*model_.chat_template);
  found->format = &tool_format_of(*model_.chat_template);
  found_ = found;
}

ChatPrompt ChatService::render(const ChatRequest& request) const {
  if (!model_.chat_template)
    throw std::invalid_argument(
        "this model has no chat template: it takes /v1/completions");
  const Json messages = fit_messages(request.messages, found_->traits);
  const text::ChatOptions options = options_of(request);
  const text::Prompt prompt = model_.chat_template->render(messages, options);
  ChatPrompt rendered;
  rendered.tokens = model_.tokenizer->encode(prompt);
  rendered.begins_in_reasoning = ends_in_reasoning(prompt.text);

  // Where later requests may branch off: behind system prompt and tools, and before the
  // last message.
  text::ChatOptions part = options;
  part.continue_final_message = false;
  part.add_generation_prompt = false;
  const auto add_boundary = [&](const Json& beginning) {
    try {
      const std::string text = model_.chat_template->render(beginning, part).text;
      const int n = tokens_within(*model_.tokenizer, rendered.tokens,
                                  common_prefix(prompt.text, text));
      if (n > 0) rendered.boundaries.push_back(n);
    } catch (const std::exception&) {
      // A template that refuses a part has no boundary there.
    }
  };
  Json head = Json::array();
  for (const Json& message : messages) {
    if (message.value("role", "") != "system") break;
    head.push_back(message);
  }
  if (messages.size() > head.size() + 1) {
    Json all_but_last = messages;
    all_but_last.erase(all_but_last.size() - 1);
    add_boundary(all_but_last);
  }
  head.push_back({{"role", "user"}, {"content", "\x01"}});
  add_boundary(head);
  std::ranges::sort(rendered.boundaries);
  return rendered;
}

std::unique_ptr<Answering> ChatService::answer(
    const ChatRequest& request, std::shared_ptr<AnswerListener> listener) const {
  ChatPrompt prompt = render(request);
  const DeclaredTools tools = declared(request.tools);
  if (request.tool_choice.kind == ToolChoice::Kind::kNamed &&
      !tools.contains(request.tool_choice.name))
    throw std::invalid_argument("tool_choice: there is no tool \"" +
                                request.tool_choice.name + "\"");
  const bool may_call =
      !tools.empty() && request.tool_choice.kind != ToolChoice::Kind::kNone;
  const PolicyMaker policies(model_, request, prompt, *found_->format, found_->calls);
  const std::uint64_t seed = request.seed ? *request.seed : std::random_device{}();
  auto answering = std::make_unique<EngineAnswering>(
      model_.engine, static_cast<int>(prompt.tokens.size()));
  for (int i = 0; i < request.n; ++i) {
    generation::EngineRequest one;
    one.prompt = prompt.tokens;
    one.boundaries = prompt.boundaries;
    one.max_tokens = request.max_tokens.value_or(kLongestAnswer);
    one.sampling = request.sampling;
    one.seed = seed + static_cast<std::uint64_t>(i);
    one.stop_ids = {request.stop_ids.begin(), request.stop_ids.end()};
    one.stop_strings = request.stop_strings;
    one.ignore_eos = request.ignore_eos;
    one.log_probs = request.log_probs;
    one.salt = request.cache_salt;
    one.adapter = request.adapter;
    one.policy = policies.make();
    answering->add(model_.engine->submit(
        std::move(one), std::make_shared<Choice>(
                            i,
                            ParserOptions{prompt.begins_in_reasoning,
                                          may_call ? found_->format : nullptr, tools},
                            request.thinking.shown, model_.tokenizer, listener)));
  }
  return answering;
}

}  // namespace optiq::server
