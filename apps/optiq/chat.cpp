#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <memory>
#include <optional>
#include <string>

#include "command.h"
#include "optiq/base/error.h"
#include "optiq/base/log.h"
#include "optiq/base/signal.h"
#include "optiq/generate/generate.h"
#include "request_options.h"

namespace optiq::app {
namespace {

using Messages = nlohmann::ordered_json;

// A conversation: its messages, and the session that has read them.
class Conversation {
 public:
  Conversation(LoadedModel& model, const RequestOptions& options, Request request,
               Context& context)
      : model_(model),
        options_(options),
        request_(std::move(request)),
        context_(context) {
    reset();
  }

  void reset() {
    messages_ = Messages::array();
    if (!options_.system.empty())
      messages_.push_back({{"role", "system"}, {"content", options_.system}});
    session_.reset();
  }

  // Answers on stdout. A question that could not be answered leaves no trace.
  void ask(const std::string& question) {
    messages_.push_back({{"role", "user"}, {"content", question}});
    try {
      const GenerateResult result = answer();
      messages_.push_back({{"role", "assistant"}, {"content", result.text}});
    } catch (...) {
      messages_.erase(messages_.size() - 1);
      throw;
    }
  }

 private:
  // What the session has read is not read again, unless the template has changed it
  // (many leave earlier reasoning out).
  void keep_or_renew_session(const Request& request) {
    const auto& prompt = request.prompt;
    if (session_) {
      const auto& held = session_->tokens();
      if (held.size() < prompt.size() &&
          std::equal(held.begin(), held.end(), prompt.begin()))
        return;
    }
    session_.emplace(new_session(model_, request));
  }

  GenerateResult answer() {
    Request request = request_;
    request.prompt = encode_chat(model_, messages_, chat_options_of(options_));
    keep_or_renew_session(request);
    const auto show = [&](const GeneratedToken& token) {
      context_.out.write(token.text);
      return true;
    };
    const GenerateResult result = generate(model_, *session_, request, show);
    context_.out.write("\n");
    log_debug("{} tokens of context; answer {} tokens, {:.1f} tokens/s",
              session_->length(), result.completion_tokens, result.decode_tps);
    return result;
  }

  LoadedModel& model_;
  const RequestOptions& options_;
  const Request request_;  // without its prompt
  Context& context_;
  Messages messages_;
  std::optional<generation::Session> session_;
};

// One line from the user; none at the end of input. Ctrl-C at the prompt gives an empty
// line.
std::optional<std::string> read_line(bool interactive, Context& context) {
  if (interactive) context.out.write("> ");
  std::string line;
  if (std::getline(std::cin, line)) return line;
  if (!interrupted()) return std::nullopt;
  clear_interrupt();
  std::cin.clear();
  std::clearerr(stdin);
  context.out.write("\n");
  return "";
}

void chat(const RequestOptions& options, Context& context) {
  Request request = request_of(options, context);
  LoadedModel model = load(options.model);
  const auto active = activate(options.adapters, model);
  request.draft = load_draft(options.draft, model);
  if (!model.chat_template)
    throw std::invalid_argument(
        model.directory.string() +
        ": the model has no chat template; use 'optiq generate'");
  const bool interactive = ::isatty(STDIN_FILENO) != 0;
  if (interactive)
    context.out.write(
        "/reset begins anew, /exit or Ctrl-D leaves, Ctrl-C stops an "
        "answer.\n");
  Conversation conversation(model, options, std::move(request), context);
  while (const auto line = read_line(interactive, context)) {
    if (line->find_first_not_of(" \t\r") == std::string::npos) continue;
    if (*line == "/exit" || *line == "/quit") return;
    if (*line == "/reset") {
      conversation.reset();
      continue;
    }
    try {
      conversation.ask(*line);
    } catch (const std::invalid_argument& error) {
      // Such as a conversation longer than the context: the user may /reset.
      if (!interactive) throw;
      log_error("{}", error.what());
    } catch (const Interrupted&) {
      if (!interactive) throw;
      context.out.write("\n");
    }
    if (interrupted() && !interactive) throw Interrupted();
    clear_interrupt();
  }
  if (interactive) context.out.write("\n");
}

}  // namespace

Run add_chat(CLI::App& app) {
  auto options = std::make_shared<RequestOptions>();
  add_request_options(app, *options);
  return [options](Context& context) { chat(*options, context); };
}

}  // namespace optiq::app
