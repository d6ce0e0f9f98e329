// The model that a server answers with, and the names it has.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "optiq/generate/engine/engine.h"
#include "optiq/server/chat/served_adapters.h"
#include "optiq/text/chat_template.h"
#include "optiq/text/constraint.h"
#include "optiq/text/tokenizer.h"

namespace optiq::server {

/// Shared by all requests; nothing in it changes while it is served, but for which
/// adapters there are.
struct ServedModel {
  std::string id;              // its own name: what /v1/models lists first
  std::int64_t created_s = 0;  // of Unix time
  std::shared_ptr<generation::Engine> engine;
  std::shared_ptr<const text::Tokenizer> tokenizer;
  std::shared_ptr<const text::ChatTemplate> chat_template;  // null: completions only
  std::shared_ptr<const text::GrammarCompiler> grammars;    // null: none
  std::set<int> end_ids;
  std::shared_ptr<ServedAdapters> adapters{};  // null: none can be had
};

}  // namespace optiq::server
