// `optiq serve`: one process that answers both APIs until it is asked to stop.
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "cache_flags.h"
#include "command.h"
#include "draft_flags.h"
#include "optiq/base/console.h"
#include "optiq/base/error.h"
#include "optiq/base/file.h"
#include "optiq/base/format.h"
#include "optiq/base/log.h"
#include "optiq/base/signal.h"
#include "optiq/generate/engine/batch_engine.h"
#include "optiq/server/serve_model.h"
#include "optiq/server/server.h"

namespace optiq::app {
namespace {

struct ServeOptions {
  server::ModelOptions model;
  server::ServerOptions server;
  CacheFlags cache;
  DraftFlags draft;
  std::string kv_memory;
  std::optional<int> max_concurrent;
  double temp = 0, top_p = 1, min_p = 0;
  int top_k = 0;
  std::vector<std::string> aliases;
  std::vector<std::string> adapters;
  std::string api_key_file;
  bool insecure = false;
  bool no_anthropic = false;
  double idle_unload_s = 0;
  double drain_timeout_s = 30;
};

// Keys from the file, one a line, and from OPTIQ_API_KEY. Never from the command line,
// which every user of the machine can read.
std::vector<std::string> api_keys(const std::string& file) {
  constexpr std::size_t kLimitBytes = 1 << 20;
  std::vector<std::string> keys;
  if (const char* key = std::getenv("OPTIQ_API_KEY"); key && *key) keys.push_back(key);
  if (file.empty()) return keys;
  std::string line;
  const std::string text = read_file(file, kLimitBytes) + "\n";
  for (const char c : text) {
    if (c != '\n' && c != '\r') {
      line += c;
      continue;
    }
    if (!line.empty()) keys.push_back(line);
    line.clear();
  }
  if (keys.empty())
    throw CheckpointError(file + ": expected API keys, one a line, found none");
  return keys;
}

bool is_loopback(const std::string& host) {
  return host == "localhost" || host == "::1" || host.starts_with("127.");
}

server::Alias alias_of(const std::string& text) {
  const std::size_t equals = text.find('=');
  if (equals == 0 || equals == std::string::npos || equals + 1 == text.size())
    throw UsageError("--alias: expected NAME=MODEL, found '" + text + "'");
  return {text.substr(0, equals), text.substr(equals + 1)};
}

// [NAME=]PATH; without a name, the last part of the path.
server::AdapterSource adapter_of(const std::string& text) {
  const std::size_t equals = text.find('=');
  if (equals != std::string::npos && equals > 0 && equals + 1 < text.size())
    return {text.substr(0, equals), text.substr(equals + 1)};
  if (text.empty() || equals != std::string::npos)
    throw UsageError("--adapter: expected [NAME=]PATH, found '" + text + "'");
  std::filesystem::path path(text);
  if (!path.has_filename()) path = path.parent_path();
  return {path.filename().string(), text};
}

// What Claude Code and clients without a model of their own ask for.
constexpr const char* kDefaultAliases[] = {"claude-*", "default", "default_model"};

server::ServerOptions server_options(const ServeOptions& flags,
                                     const std::string& model) {
  server::ServerOptions options = flags.server;
  options.defaults.sampling.temperature = static_cast<float>(flags.temp);
  options.defaults.sampling.top_p = static_cast<float>(flags.top_p);
  options.defaults.sampling.top_k = flags.top_k;
  options.defaults.sampling.min_p = static_cast<float>(flags.min_p);
  options.anthropic = !flags.no_anthropic;
  options.api_keys = api_keys(flags.api_key_file);
  for (const std::string& alias : flags.aliases)
    options.aliases.push_back(alias_of(alias));
  for (const char* pattern : kDefaultAliases)
    options.aliases.push_back({pattern, model});
  if (options.api_keys.empty() && !flags.insecure && !is_loopback(options.http.host))
    throw UsageError("--host " + options.http.host +
                     " can be reached from other machines: give --api-key-file, or "
                     "--insecure if nobody else can connect");
  if (options.http.tls_certificate.empty() != options.http.tls_key.empty())
    throw UsageError("--tls-cert and --tls-key belong together");
  return options;
}

void serve(ServeOptions flags, Context& context) {
  flags.model.seed = context.seed;
  flags.model.engine.cache = cache_options_of(flags.cache, context.seed);
  if (!flags.kv_memory.empty())
    flags.model.engine.cache.budget_bytes = parse_bytes(flags.kv_memory);
  flags.model.engine.max_concurrent =
      flags.max_concurrent.value_or(generation::usual_concurrency());
  flags.model.engine.draft = draft_options_of(flags.draft);
  flags.model.draft_model = flags.draft.model;
  flags.model.idle_unload =
      std::chrono::milliseconds(static_cast<std::int64_t>(1e3 * flags.idle_unload_s));
  for (const std::string& adapter : flags.adapters)
    flags.model.adapters.push_back(adapter_of(adapter));
  const std::string name = server::model_name(flags.model.model);
  server::ServerOptions options = server_options(flags, name);
  server::Opened opened = server::open_model(flags.model);
  options.model_page = opened.page;
  const bool tls = !options.http.tls_certificate.empty();
  const std::string host = options.http.host.find(':') == std::string::npos
                               ? options.http.host
                               : "[" + options.http.host + "]";
  server::Server server(std::move(opened.model), std::move(options));
  server.start();
  for (const std::string& line : opened.description) log_info("{}", line);
  const std::string url =
      fmt::format("{}://{}:{}", tls ? "https" : "http", host, server.port());
  log_info("serving {} at {} (OpenAI: {}/v1{})", name, url, url,
           flags.no_anthropic ? "" : "; Anthropic: " + url);
  wait_for_interrupt();
  log_info("stopping: open requests have {} to finish",
           format_duration(flags.drain_timeout_s));
  const bool whole = server.drain(std::chrono::milliseconds(
      static_cast<std::int64_t>(1e3 * flags.drain_timeout_s)));
  if (!whole) log_warning("some requests were cut short");
  server.stop();
}

void add_flags(CLI::App& app, ServeOptions& o) {
  auto& http = o.server.http;
  app.add_option("--model", o.model.model,
                 "A directory, a hub id such as Qwen/Qwen3-0.6B, or demo")
      ->required()
      ->type_name("MODEL");
  app.add_option("--host", http.host, "Address to listen on")->capture_default_str();
  app.add_option("--port", http.port, "Port to listen on; 0: any free one")
      ->check(CLI::Range(0, 65535))
      ->type_name("N")
      ->capture_default_str();
  app.add_option("--max-tokens", o.server.defaults.max_tokens,
                 "Length of an answer at most, where a request does not say")
      ->check(CLI::Range(1, 1 << 30).description(""))
      ->type_name("N")
      ->capture_default_str();
  app.add_option("--temp", o.temp, "Temperature, where a request does not say")
      ->check(number_in(0, 100))
      ->type_name("T")
      ->capture_default_str();
  app.add_option("--top-p", o.top_p, "The same for top_p")
      ->check(number_in(0, 1))
      ->type_name("P")
      ->capture_default_str();
  app.add_option("--top-k", o.top_k, "The same for top_k; 0: all tokens")
      ->check(CLI::Range(0, 1 << 30).description(""))
      ->type_name("K")
      ->capture_default_str();
  app.add_option("--min-p", o.min_p, "The same for min_p")
      ->check(number_in(0, 1))
      ->type_name("P")
      ->capture_default_str();
  add_cache_flags(app, o.cache);
  add_draft_flags(app, o.draft);
  app.add_option("--kv-memory", o.kv_memory,
                 "Memory for keys and values, such as 4GB (default: what is available)")
      ->type_name("BYTES");
  app.add_option("--max-context", o.model.engine.context_length,
                 "Tokens of prompt and answer at most (default: the model's own)")
      ->check(CLI::Range(16, 1 << 27).description(""))
      ->type_name("N");
  app.add_option("--max-concurrent", o.max_concurrent,
                 "Requests that are answered at once (default: 8, on a GPU 32)")
      ->check(CLI::Range(1, 256))
      ->type_name("N");
  app.add_option("--max-queue", o.model.engine.max_queue,
                 "Requests that may wait; more are refused")
      ->check(CLI::Range(0, 100'000))
      ->type_name("N")
      ->capture_default_str();
  app.add_option("--alias", o.aliases,
                 "Another name for the model; * stands for any text (repeatable)")
      ->type_name("NAME=MODEL")
      ->expected(1)
      ->take_all();
  app.add_option("--adapter", o.adapters,
                 "A LoRA adapter that requests may name, a directory or a hub id "
                 "(repeatable); a single one answers unless a request says otherwise")
      ->type_name("[NAME=]PATH")
      ->expected(1)
      ->take_all();
  app.add_flag("--adapter-admin", o.server.adapter_admin,
               "Let clients mount and unmount adapters: POST and DELETE /v1/adapters");
  app.add_option("--api-key-file", o.api_key_file,
                 "Keys that open the server, one a line; OPTIQ_API_KEY is one too")
      ->type_name("FILE");
  app.add_flag("--insecure", o.insecure, "Let other machines in without a key");
  app.add_option("--allow-host", o.server.hosts,
                 "A value of the Host header that is taken besides this machine's own "
                 "(repeatable)")
      ->type_name("NAME")
      ->expected(1)
      ->take_all();
  app.add_option(
         "--allow-origin", o.server.origins,
         "A web page's origin that may ask, as https://example.com (repeatable)")
      ->type_name("ORIGIN")
      ->expected(1)
      ->take_all();
  app.add_option("--tls-cert", http.tls_certificate, "Certificate chain (PEM): HTTPS")
      ->type_name("FILE");
  app.add_option("--tls-key", http.tls_key, "Its private key (PEM)")->type_name("FILE");
  app.add_flag("--no-anthropic", o.no_anthropic, "Leave out Anthropic's API");
  app.add_option("--idle-unload", o.idle_unload_s,
                 "Free the weights after so many seconds without a request; 0: never")
      ->check(number_in(0, 1e7))
      ->type_name("SECONDS")
      ->capture_default_str();
  app.add_option("--drain-timeout", o.drain_timeout_s,
                 "Seconds that open requests have to finish when the server is stopped")
      ->check(number_in(0, 1e6))
      ->type_name("SECONDS")
      ->capture_default_str();
  app.add_flag("--exact", o.model.exact,
               "Compute in float32, without int8 activations and float16 cache");
}

}  // namespace

Run add_serve(CLI::App& app) {
  auto options = std::make_shared<ServeOptions>();
  add_flags(app, *options);
  return [options](Context& context) { serve(*options, context); };
}

}  // namespace optiq::app
