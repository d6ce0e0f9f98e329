// From what a user calls a model to one that a server answers with.
#pragma once
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "optiq/generate/engine/batch_engine.h"
#include "optiq/server/chat/served_model.h"

namespace optiq::server {

/// An adapter to be mounted from the start.
struct AdapterSource {
  std::string name;
  std::string path;  // a directory or a hub id
};

struct ModelOptions {
  std::string model;                      // `demo`, a directory, or a hub id
  std::vector<AdapterSource> adapters{};  // the only one answers unless told otherwise
  std::string draft_model{};              // of guesses, likewise; empty: none
  generation::BatchOptions engine;
  bool exact = false;                        // float32 activations and cache
  std::uint64_t seed = 0;                    // of the cache's rotations
  std::chrono::milliseconds idle_unload{0};  // 0: never
};

struct Opened {
  ServedModel model;
  std::string page;                      // JSON for the page
  std::vector<std::string> description;  // lines for the log: what is served, and how
};

/// The name that clients use: a hub id as it is, the last part of a directory's path.
std::string model_name(const std::string& model);

/// Loads it and starts its engine.
///
/// Throws    as optiq::load; std::invalid_argument for a model without a tokenizer
Opened open_model(const ModelOptions& options);

}  // namespace optiq::server
