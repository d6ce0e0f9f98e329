#include "optiq/generate/generate.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <iterator>
#include <memory>

#include "command.h"
#include "optiq/base/error.h"
#include "optiq/base/file.h"
#include "optiq/base/format.h"
#include "optiq/base/log.h"
#include "optiq/base/memory.h"
#include "optiq/base/progress.h"
#include "request_options.h"

namespace optiq::app {
namespace {

struct Options {
  RequestOptions request;
  std::string prompt;
  std::string messages;
  std::string input_ids;
  bool raw = false;
};

std::string prompt_text(const std::string& flag) {
  if (flag != "-") return flag;
  std::string text(std::istreambuf_iterator<char>(std::cin), {});
  if (std::ferror(stdin))
    throw ResourceError(
        fmt::format("--prompt -: cannot read stdin: {}", std::strerror(errno)));
  return text;
}

nlohmann::ordered_json read_messages(const std::string& file) {
  constexpr std::size_t kLimitBytes = std::size_t{64} << 20;
  auto messages =
      nlohmann::ordered_json::parse(read_file(file, kLimitBytes), nullptr, false);
  // A whole request body is taken too.
  if (messages.is_object() && messages.contains("messages"))
    messages = nlohmann::ordered_json(messages["messages"]);
  if (!messages.is_array() || messages.empty())
    throw CheckpointError(file + ": expected a JSON list of messages");
  return messages;
}

std::vector<int> prompt_ids(const Options& options, const LoadedModel& model) {
  if (!options.input_ids.empty()) return read_ids(options.input_ids);
  const auto chat = chat_options_of(options.request);
  if (!options.messages.empty())
    return encode_chat(model, read_messages(options.messages), chat);
  const std::string text = prompt_text(options.prompt);
  // Without a template the prompt is what the model goes on writing, as in mlx-lm.
  if (options.raw || !model.chat_template) return encode_raw(model, text);
  auto messages = nlohmann::ordered_json::array();
  if (!options.request.system.empty())
    messages.push_back({{"role", "system"}, {"content", options.request.system}});
  messages.push_back({{"role", "user"}, {"content", text}});
  return encode_chat(model, messages, chat);
}

void generate_command(const Options& options, Context& context) {
  Request request = request_of(options.request, context);
  LoadedModel model = load(options.request.model);
  const auto active = activate(options.request.adapters, model);
  request.draft = load_draft(options.request.draft, model);
  request.prompt = prompt_ids(options, model);
  auto progress = std::make_unique<Progress>(
      "reading the prompt", static_cast<std::int64_t>(request.prompt.size()), "tokens");
  constexpr std::size_t kLongPrompt = 4096;  // tokens; shorter ones need no bar
  if (request.prompt.size() >= kLongPrompt)
    request.on_prefill = [&](int done) { progress->set(done); };
  generation::Session session = new_session(model, request);
  const GenerateResult result =
      generate(model, session, request, [&](const GeneratedToken& token) {
        progress.reset();
        context.out.write(token.text);
        return true;
      });
  context.out.write("\n");
  log_info(
      "prompt {} tokens, {:.1f} tokens/s; answer {} tokens, {:.1f} tokens/s; {}; "
      "peak memory {}",
      result.prompt_tokens, result.prefill_tps, result.completion_tokens,
      result.decode_tps, name(result.finish_reason), format_bytes(peak_rss_bytes()));
  if (result.drafted_tokens > 0)
    log_info("{} of {} guessed tokens held", result.accepted_tokens,
             result.drafted_tokens);
  if (result.finish_reason == FinishReason::kInterrupted) throw Interrupted();
  nlohmann::ordered_json summary = {{"model", options.request.model},
                                    {"tokens", result.tokens},
                                    {"text", result.text},
                                    {"finish_reason", name(result.finish_reason)},
                                    {"prompt_tokens", result.prompt_tokens},
                                    {"completion_tokens", result.completion_tokens},
                                    {"prefill_tps", result.prefill_tps},
                                    {"decode_tps", result.decode_tps}};
  if (request.draft.any()) {
    summary["drafted_tokens"] = result.drafted_tokens;
    summary["accepted_tokens"] = result.accepted_tokens;
  }
  add_cache_summary(session.state().cache(), summary);
  summary["peak_rss_bytes"] = peak_rss_bytes();
  context.out.summary(summary);
}

}  // namespace

Run add_generate(CLI::App& app) {
  auto options = std::make_shared<Options>();
  add_request_options(app, options->request);
  auto* source = app.add_option_group("Prompt", "One of these is required");
  source
      ->add_option("-p,--prompt", options->prompt,
                   "The user's message, or - to read it from stdin")
      ->type_name("TEXT");
  source
      ->add_option("--messages", options->messages,
                   "A JSON list of messages with role and content")
      ->type_name("FILE");
  source->add_option("--input-ids", options->input_ids, "A JSON list of token ids")
      ->type_name("FILE");
  source->require_option(1);
  app.add_flag("--raw", options->raw,
               "Give the prompt to the model as it is, without its chat template");
  return [options](Context& context) { generate_command(*options, context); };
}

}  // namespace optiq::app
