// The flags that say whose guesses at the next tokens are checked.
#pragma once
#include <CLI/CLI.hpp>
#include <string>

#include "optiq/generate/draft/draft.h"

namespace optiq::app {

struct DraftFlags {
  std::string model;
  int model_tokens = 4;
  int ngram_tokens = 3;
  int ngram_min = 3;
};

/// Adds --draft-model, --num-draft-tokens, --ngram-draft, --ngram-min.
void add_draft_flags(CLI::App& app, DraftFlags& flags);

/// What the flags ask for but for the small model.
generation::DraftOptions draft_options_of(const DraftFlags& flags);

/// The same with the small model loaded, for `model`.
///
/// Throws    as optiq::load; std::invalid_argument if its tokens are others
generation::DraftOptions load_draft(const DraftFlags& flags, const LoadedModel& model);

}  // namespace optiq::app
