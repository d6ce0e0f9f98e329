#include "request_options.h"

#include <limits>
#include <nlohmann/json.hpp>

#include "optiq/base/error.h"
#include "optiq/base/file.h"

namespace optiq::app {

void add_model_argument(CLI::App& app, std::string& model) {
  app.add_option("MODEL", model,
                 "A directory, a hub id such as Qwen/Qwen3-0.6B, or demo")
      ->required()
      ->type_name("");
}

void add_request_options(CLI::App& app, RequestOptions& options) {
  add_model_argument(app, options.model);
  app.add_option("--max-tokens", options.max_tokens, "Length of the answer at most")
      ->check(CLI::Range(0, std::numeric_limits<int>::max()).description(""))
      ->type_name("N")
      ->capture_default_str();
  app.add_option("--temp", options.temp, "Temperature; 0 takes the most likely token")
      ->check(number_in(0, 100))
      ->type_name("T")
      ->capture_default_str();
  app.add_option("--top-p", options.top_p,
                 "Sample from the likeliest tokens that hold this probability")
      ->check(number_in(0, 1))
      ->type_name("P")
      ->capture_default_str();
  app.add_option("--top-k", options.top_k, "Sample from the K likeliest; 0: from all")
      ->check(CLI::Range(0, std::numeric_limits<int>::max()).description(""))
      ->type_name("K")
      ->capture_default_str();
  app.add_option("--min-p", options.min_p,
                 "Sample from tokens at least this likely, relative to the likeliest")
      ->check(number_in(0, 1))
      ->type_name("P")
      ->capture_default_str();
  app.add_option("--stop", options.stop, "End the answer before TEXT (repeatable)")
      ->type_name("TEXT")
      ->expected(1)
      ->take_all();
  app.add_flag("--ignore-eos", options.ignore_eos,
               "Go on past the model's end token, up to --max-tokens");
  app.add_flag("--exact", options.exact,
               "Compute in float32, without int8 activations and float16 cache");
  add_adapter_flag(app, options.adapters);
  add_cache_flags(app, options.cache);
  add_draft_flags(app, options.draft);
  app.add_option("--system", options.system, "The system message")->type_name("TEXT");
  app.add_option("--chat-template-config", options.template_config,
                 "Variables for the chat template, such as "
                 "'{\"enable_thinking\": false}'")
      ->type_name("JSON");
}

Request request_of(const RequestOptions& options, const Context& context) {
  Request request;
  request.max_tokens = options.max_tokens;
  request.sampling.temperature = static_cast<float>(options.temp);
  request.sampling.top_p = static_cast<float>(options.top_p);
  request.sampling.top_k = options.top_k;
  request.sampling.min_p = static_cast<float>(options.min_p);
  request.seed = context.seed;
  request.stop_strings = options.stop;
  request.ignore_eos = options.ignore_eos;
  request.exact = options.exact;
  request.cache = cache_options_of(options.cache, context.seed);
  return request;
}

text::ChatOptions chat_options_of(const RequestOptions& options) {
  text::ChatOptions chat;
  if (options.template_config.empty()) return chat;
  chat.variables =
      nlohmann::ordered_json::parse(options.template_config, nullptr, false);
  if (!chat.variables.is_object())
    throw UsageError("--chat-template-config: expected a JSON object, found '" +
                     options.template_config + "'");
  return chat;
}

std::vector<int> read_ids(const std::string& file) {
  constexpr std::size_t kLimitBytes = std::size_t{256} << 20;
  const auto list = nlohmann::json::parse(read_file(file, kLimitBytes), nullptr, false);
  if (!list.is_array() || list.empty())
    throw CheckpointError(file + ": expected a JSON list of token ids");
  std::vector<int> ids;
  for (const auto& id : list) {
    // Negative and large ids are refused by the model, with its vocabulary's size.
    if (!id.is_number_integer() || id < std::numeric_limits<int>::min() ||
        id > std::numeric_limits<int>::max())
      throw CheckpointError(fmt::format("{}: entry {}: expected a token id, found {}",
                                        file, ids.size(), id.dump()));
    ids.push_back(id);
  }
  return ids;
}

}  // namespace optiq::app
