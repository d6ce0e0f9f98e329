// A model by its hub id: from the Hugging Face cache, or fetched into it.
#pragma once
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

namespace optiq::checkpoint {

struct HubProgress {
  std::string file;
  std::uint64_t done_bytes;   // of all files, those already in the cache counted
  std::uint64_t total_bytes;  // of all files
};

struct HubOptions {
  std::filesystem::path cache;  // the directory that holds models--org--name
  std::string endpoint;
  std::string token;                        // empty: none
  bool offline = false;                     // never ask the network
  int retries = 5;                          // in a row without a new byte
  std::chrono::milliseconds backoff{1000};  // doubled at each retry
  std::function<void(const HubProgress&)> on_progress;
  std::function<bool()> is_cancelled;
};

/// What the environment asks for, as huggingface_hub reads it: HF_HUB_CACHE, HF_HOME,
/// XDG_CACHE_HOME; HF_ENDPOINT; HF_TOKEN, HF_TOKEN_PATH and the token file of a login;
/// HF_HUB_OFFLINE.
///
/// Throws    std::invalid_argument for an endpoint that is no http(s) address.
HubOptions hub_options_from_environment();

/// The directory of a model: a local directory as it is; else a hub id, from the cache
/// if a whole snapshot is there (without asking the network), else by pull().
///
/// Throws    std::invalid_argument if it is neither; as pull().
std::filesystem::path resolve_model(const std::string& model, const HubOptions& options,
                                    const std::string& revision = "main");

/// Fetches what is missing of a model (safetensors, JSON, chat template, tokenizer,
/// README, LICENSE) and returns its snapshot directory. Broken transfers go on where
/// they stopped, in this run and in the next; sizes and, for large files, SHA-256 are
/// verified; the token is shown to the endpoint alone.
///
/// Throws    std::invalid_argument for a malformed id or revision; ResourceError: no
///           such model, no access, no network, disk full, offline and not cached;
///           CheckpointError for bytes or names that are not what they should be;
///           Interrupted.
/// Threads   processes that fetch the same file wait for each other.
std::filesystem::path pull(const std::string& repository, const HubOptions& options,
                           const std::string& revision = "main");

/// Copies a snapshot into an ordinary directory that appears whole or not at all.
void copy_snapshot(const std::filesystem::path& snapshot,
                   const std::filesystem::path& target);

}  // namespace optiq::checkpoint
