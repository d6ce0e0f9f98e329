// Training text: JSON lines -> tokens, and which of them are to be learnt.
#pragma once
#include <cstdint>
#include <filesystem>
#include <vector>

#include "optiq/generate/loaded_model.h"

namespace optiq::train {

/// One sequence. Token i counts, as the target of those before it, where learnt[i] is
/// set; never the first.
struct Example {
  std::vector<int> tokens;
  std::vector<std::uint8_t> learnt;

  int n_learnt() const;
};

/// What is learnt of a chat.
enum class LearnFrom {
  kAll,         // every token
  kLastAnswer,  // the last message, where it is the assistant's (mlx-lm: --mask-prompt)
  kAnswers,     // every message of the assistant
};

struct DataOptions {
  LearnFrom learn_from = LearnFrom::kAll;
  int max_length = 2048;  // tokens; what is longer is cut off
};

/// Lines of {"messages": [...], "tools": [...]}, {"prompt": ..., "completion": ...} or
/// {"text": ...}, the forms of mlx-lm. Completions are chats of two messages; a text
/// ends with the end token and is learnt whole. Lines without anything to learn are
/// left out, with a warning that counts them.
///
/// Throws    CheckpointError "<file>:<line>: expected ..., found ..."; it is also
///           thrown where nothing is left
std::vector<Example> read_examples(const std::filesystem::path& file,
                                   const LoadedModel& model,
                                   const DataOptions& options);

}  // namespace optiq::train
