#include "optiq/server/chat/answer_policy.h"

#include <algorithm>
#include <deque>
#include <optional>
#include <set>
#include <stdexcept>
#include <utility>

#include "optiq/server/chat/call_grammar.h"
#include "optiq/server/chat/schema.h"

namespace optiq::server {
namespace {

// A tool's call must be possible within what is left when thinking is cut off.
constexpr const char* kEndOfThinking = "\n</think>\n\n";

// Tokens of a text of ours, in which control tokens are meant.
std::vector<int> tokens_of(const text::Tokenizer& tokenizer, const char* text) {
  return tokenizer.encode(text, {.add_special_tokens = false, .parse_special = true});
}

// What is the same for all answers of a request.
struct Plan {
  std::optional<text::Constraint> constraint;  // of what follows the reasoning
  bool begins_in_reasoning = false;
  std::optional<int> budget;       // of reasoning tokens
  int think = -1, end_think = -1;  // tokens; -1: the model has none
  std::vector<int> close;          // what ends the reasoning by force
  // What may stand behind the mark of a call that the model begins by itself.
  std::shared_ptr<const text::Constraint> call;
  int call_mark = -1;
  std::shared_ptr<const text::Tokenizer> tokenizer;
};

class AnswerPolicy final : public generation::TokenPolicy {
 public:
  explicit AnswerPolicy(const Plan& plan)
      : plan_(plan),
        constraint_(plan.constraint),
        reasoning_(plan.begins_in_reasoning) {}

  bool restrict_next(std::span<std::uint32_t> mask) override {
    if (reasoning_ && plan_.budget && spent_ >= *plan_.budget && forced_.empty())
      forced_.assign(plan_.close.begin(), plan_.close.end());
    if (!forced_.empty()) {
      std::ranges::fill(mask, 0u);
      const auto id = static_cast<std::size_t>(forced_.front());
      mask[id / 32] |= std::uint32_t{1} << (id % 32);
      return true;
    }
    if (call_) {
      call_->fill_mask(mask);
      return true;
    }
    if (reasoning_ || !constraint_) return false;
    constraint_->fill_mask(mask);
    // A model that thinks by itself may begin with that.
    if (n_ == 0 && plan_.think >= 0 && plan_.budget.value_or(1) > 0) {
      const auto id = static_cast<std::size_t>(plan_.think);
      mask[id / 32] |= std::uint32_t{1} << (id % 32);
    }
    return true;
  }

  void accept(int id) override {
    const bool first = n_++ == 0;
    const bool was_forced = !forced_.empty();
    if (was_forced) forced_.pop_front();
    if (reasoning_) {
      ++spent_;
      if (id == plan_.end_think) {
        reasoning_ = false;
        // The blank line behind the tag, which every template writes.
        if (!was_forced && constraint_ && plan_.close.size() > 0) force_blank_line();
      }
      return;
    }
    if (first && id == plan_.think && plan_.think >= 0) {
      reasoning_ = true;
      return;
    }
    if (call_)
      accept_in_call(id);
    else if (constraint_ && !was_forced)
      constraint_->accept(id);
    else if (plan_.call)
      look_for_call(id);
  }

  bool complete() const override {
    return constraint_ && !reasoning_ && forced_.empty() &&
           const_cast<text::Constraint&>(*constraint_).must_end();
  }

 private:
  void accept_in_call(int id) {
    call_->accept(id);
    if (call_->must_end()) call_.reset();
  }

  // The mark is one only at the start of a line: elsewhere it is talked about.
  void look_for_call(int id) {
    if (id == plan_.call_mark && at_line_start_) {
      call_.emplace(*plan_.call);
      return;
    }
    const std::string bytes = plan_.tokenizer->token_bytes(id);
    if (!bytes.empty()) at_line_start_ = bytes.back() == '\n';
  }

  void force_blank_line() {
    const auto tag = std::ranges::find(plan_.close, plan_.end_think);
    if (tag != plan_.close.end()) forced_.assign(tag + 1, plan_.close.end());
  }

  const Plan& plan_;
  std::optional<text::Constraint> constraint_;
  bool reasoning_;
  int spent_ = 0;
  int n_ = 0;
  std::deque<int> forced_;
  std::optional<text::Constraint> call_;  // while a call is written
  bool at_line_start_ = true;
};

// Keeps the plan alive for as long as the policy lives.
class OwningPolicy final : public generation::TokenPolicy {
 public:
  explicit OwningPolicy(std::shared_ptr<const Plan> plan)
      : plan_(std::move(plan)), policy_(*plan_) {}

  bool restrict_next(std::span<std::uint32_t> mask) override {
    return policy_.restrict_next(mask);
  }
  void accept(int id) override { policy_.accept(id); }
  bool complete() const override { return policy_.complete(); }

 private:
  const std::shared_ptr<const Plan> plan_;
  AnswerPolicy policy_;
};

std::string choice_expression(const std::vector<std::string>& choices) {
  std::string expression;
  for (const std::string& choice : choices) {
    if (!expression.empty()) expression += '|';
    for (const char c : choice) {
      if (std::string_view("\\.+*?()|[]{}^$#&-~/").find(c) != std::string_view::npos)
        expression += '\\';
      expression += c;
    }
  }
  return expression;
}

std::optional<text::Constraint> constraint_of_format(
    const text::GrammarCompiler& compiler, const AnswerFormat& format) {
  using Kind = AnswerFormat::Kind;
  switch (format.kind) {
    case Kind::kText:
      return std::nullopt;
    case Kind::kJsonObject: {
      Json any;
      any["type"] = "object";
      return compile_schema(compiler, std::move(any), true);
    }
    case Kind::kJsonSchema:
      return compile_schema(compiler, format.schema, format.strict);
    case Kind::kRegex:
      return compiler.compile({text::Grammar::Kind::kRegex, format.pattern});
    case Kind::kChoice:
      return compiler.compile(
          {text::Grammar::Kind::kRegex, choice_expression(format.choices)});
    case Kind::kGrammar:
      return compiler.compile({text::Grammar::Kind::kLark, format.pattern});
  }
  return std::nullopt;
}

std::optional<text::Constraint> constraint_of_calls(const ServedModel& model,
                                                    const ChatRequest& request,
                                                    const ToolFormat& format) {
  const ToolChoice& choice = request.tool_choice;
  Json wanted = Json::array();
  for (const Json& tool : request.tools)
    if (choice.kind != ToolChoice::Kind::kNamed ||
        tool.at("function").at("name") == choice.name)
      wanted.push_back(tool);
  const DeclaredTools tools = enforceable(*model.grammars, wanted);
  if (tools.empty()) throw std::invalid_argument("tool_choice: there are no tools");
  const bool parallel = choice.parallel && choice.kind == ToolChoice::Kind::kRequired;
  return model.grammars->compile(
      call_grammar(format, *model.tokenizer, tools, parallel));
}

}  // namespace

struct PolicyMaker::Demands {
  std::shared_ptr<const Plan> plan;  // null: nothing
};

PolicyMaker::PolicyMaker(const ServedModel& model, const ChatRequest& request,
                         const ChatPrompt& prompt, const ToolFormat& format,
                         CallConstraints& calls)
    : demands_(std::make_unique<Demands>()) {
  const bool must_call = request.tool_choice.kind == ToolChoice::Kind::kRequired ||
                         request.tool_choice.kind == ToolChoice::Kind::kNamed;
  const bool formatted = request.format.kind != AnswerFormat::Kind::kText;
  std::shared_ptr<const text::Constraint> call;
  if (request.tool_choice.kind == ToolChoice::Kind::kAuto && !formatted)
    call = calls.find(model, format, request.tools);
  if (!must_call && !formatted && !request.thinking.budget && !call) return;
  if ((must_call || formatted) && !model.grammars)
    throw std::invalid_argument(
        "this model's tokenizer allows no grammars: no response_format, and no "
        "tool_choice that forces a call");
  auto plan = std::make_shared<Plan>();
  if (must_call)
    plan->constraint = constraint_of_calls(model, request, format);
  else if (formatted)
    plan->constraint = constraint_of_format(*model.grammars, request.format);
  if (call) {
    plan->call_mark = model.tokenizer->token_id(opening_mark(format)).value_or(-1);
    plan->call = std::move(call);
    plan->tokenizer = model.tokenizer;
  }
  plan->begins_in_reasoning = prompt.begins_in_reasoning;
  plan->budget = request.thinking.budget;
  plan->think = model.tokenizer->token_id("<think>").value_or(-1);
  plan->end_think = model.tokenizer->token_id("</think>").value_or(-1);
  if (plan->end_think >= 0) plan->close = tokens_of(*model.tokenizer, kEndOfThinking);
  if (plan->close.empty()) plan->budget.reset();
  // Thinking that was switched off is not begun again by the model itself.
  if (request.thinking.enabled == false) plan->think = -1;
  demands_->plan = std::move(plan);
}

PolicyMaker::~PolicyMaker() = default;

std::unique_ptr<generation::TokenPolicy> PolicyMaker::make() const {
  if (!demands_->plan) return nullptr;
  return std::make_unique<OwningPolicy>(demands_->plan);
}

}  // namespace optiq::server
