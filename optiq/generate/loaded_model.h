// A model with its tokenizer and chat template, ready to answer.
#pragma once
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "optiq/models/model.h"
#include "optiq/text/chat_template.h"
#include "optiq/text/tokenizer.h"

namespace optiq {

struct LoadedModel {
  std::filesystem::path directory;
  std::unique_ptr<models::Model> model;
  std::optional<text::Tokenizer> tokenizer;         // none: loaded without text
  std::optional<text::ChatTemplate> chat_template;  // none: the model has none
  std::set<int> eos_ids;                            // any of them ends an answer
};

struct LoadOptions {
  bool text = true;  // tokenizer and chat template too
};

/// Loads a model by what a user calls it: `demo`, a directory, or a hub id.
///
/// Throws    std::invalid_argument, CheckpointError, Interrupted; ResourceError if the
///           weights are larger than the memory that is available.
/// Cost      reads all weights once.
LoadedModel load(const std::string& model, const LoadOptions& options = {});

}  // namespace optiq
