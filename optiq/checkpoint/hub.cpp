#include "optiq/checkpoint/hub.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <optional>
#include <system_error>

#include "optiq/base/error.h"
#include "optiq/base/file.h"
#include "optiq/checkpoint/hub/download.h"
#include "optiq/checkpoint/hub/hub_cache.h"
#include "optiq/checkpoint/hub/hub_names.h"
#include "optiq/checkpoint/quote.h"

namespace optiq::checkpoint {
namespace fs = std::filesystem;
namespace {

constexpr const char* kDefaultEndpoint = "https://huggingface.co";

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string trimmed(std::string text) {
  const auto is_space = [](char c) { return c == ' ' || ('\t' <= c && c <= '\r'); };
  while (!text.empty() && is_space(text.back())) text.pop_back();
  while (!text.empty() && is_space(text.front())) text.erase(0, 1);
  return text;
}

fs::path hub_home() {
  if (const std::string home = environment("HF_HOME"); !home.empty()) return home;
  if (const std::string cache = environment("XDG_CACHE_HOME"); !cache.empty())
    return fs::path(cache) / "huggingface";
  return fs::path(environment("HOME")) / ".cache" / "huggingface";
}

std::string find_token() {
  for (const char* name : {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"})
    if (std::string token = trimmed(environment(name)); !token.empty()) return token;
  const std::string given = environment("HF_TOKEN_PATH");
  const fs::path file = given.empty() ? hub_home() / "token" : fs::path(given);
  std::error_code error;
  if (!fs::is_regular_file(file, error)) return "";
  return trimmed(read_file(file, 4096));
}

bool is_true(std::string text) {
  std::ranges::transform(text, text.begin(), [](unsigned char c) {
    return static_cast<char>(std::toupper(c));
  });
  return text == "1" || text == "ON" || text == "YES" || text == "TRUE";
}

void check_names(const std::string& repository, const std::string& revision) {
  if (!is_hub_id(repository))
    throw std::invalid_argument(
        fmt::format("expected a directory or a hub id such as org/name, found {}",
                    quote(repository)));
  if (!is_revision(revision))
    throw std::invalid_argument(fmt::format(
        "expected a branch, a tag or a commit as revision, found {}", quote(revision)));
}

}  // namespace

HubOptions hub_options_from_environment() {
  HubOptions options;
  options.endpoint = trimmed(environment("HF_ENDPOINT"));
  if (options.endpoint.empty()) options.endpoint = kDefaultEndpoint;
  while (options.endpoint.ends_with('/')) options.endpoint.pop_back();
  if (!options.endpoint.starts_with("https://") &&
      !options.endpoint.starts_with("http://"))
    throw std::invalid_argument(
        fmt::format("HF_ENDPOINT: expected an http or https address, found {}",
                    quote(options.endpoint)));
  for (const char* name : {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"})
    if (options.cache.empty()) options.cache = environment(name);
  if (options.cache.empty()) options.cache = hub_home() / "hub";
  options.token = find_token();
  // It becomes a line of the request.
  if (std::ranges::any_of(options.token, [](unsigned char c) { return c <= ' '; }))
    throw std::invalid_argument("HF_TOKEN: expected one word");
  options.offline = is_true(environment("HF_HUB_OFFLINE")) ||
                    is_true(environment("TRANSFORMERS_OFFLINE"));
  return options;
}

fs::path resolve_model(const std::string& model, const HubOptions& options,
                       const std::string& revision) {
  std::error_code error;
  if (fs::is_directory(model, error)) return model;
  if (fs::exists(model, error))
    throw std::invalid_argument(
        fmt::format("expected a model directory, {} is a file", quote(model)));
  if (!is_hub_id(model))
    throw std::invalid_argument(fmt::format(
        "{}: no such directory, and not a hub id such as org/name", quote(model)));
  check_names(model, revision);
  if (const auto cached = HubCache(options.cache, model).find(revision)) return *cached;
  return pull(model, options, revision);
}

fs::path pull(const std::string& repository, const HubOptions& options,
              const std::string& revision) {
  check_names(repository, revision);
  const HubCache cache(options.cache, repository);
  if (options.offline) {
    if (const auto cached = cache.find(revision)) return *cached;
    throw ResourceError(fmt::format(
        "model {} revision {} is not (whole) in the cache {}, and offline mode is set "
        "(HF_HUB_OFFLINE)",
        quote(repository), quote(revision), options.cache.string()));
  }
  return Download(repository, revision, cache, options).run();
}

void copy_snapshot(const fs::path& snapshot, const fs::path& target) {
  // Tells an earlier copy, which is replaced, from any other model, which is not.
  constexpr const char* kMarker = ".optiq-pull";
  AtomicDirectory output(target, kMarker);
  write_file_atomic(output.path() / kMarker, snapshot.filename().string() + "\n");
  try {
    for (fs::recursive_directory_iterator i(snapshot), end; i != end; ++i) {
      const fs::path copy = output.path() / i->path().lexically_relative(snapshot);
      if (i->is_directory())
        fs::create_directory(copy);
      else
        fs::copy_file(i->path(), copy);  // follows the link to the blob
    }
  } catch (const fs::filesystem_error& error) {
    throw ResourceError(fmt::format("{}: cannot copy {}: {}", target.string(),
                                    error.path1().string(), error.code().message()));
  }
  output.commit();
}

}  // namespace optiq::checkpoint
