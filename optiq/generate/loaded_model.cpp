#include "optiq/generate/loaded_model.h"

#include <fmt/format.h>

#include "optiq/base/error.h"
#include "optiq/base/format.h"
#include "optiq/base/log.h"
#include "optiq/base/memory.h"
#include "optiq/checkpoint/checkpoint.h"
#include "optiq/checkpoint/names.h"
#include "optiq/generate/model_location.h"
#include "optiq/models/registry.h"

namespace optiq {
namespace {

std::uint64_t text_model_bytes(const checkpoint::Checkpoint& checkpoint) {
  std::uint64_t bytes = 0;
  for (const std::string& name : checkpoint.names())
    if (checkpoint::role_of(name) == checkpoint::TensorRole::kText)
      bytes += checkpoint.info(name).bytes;
  return bytes;
}

void check_memory(const checkpoint::Checkpoint& checkpoint) {
  const std::uint64_t wanted = text_model_bytes(checkpoint);
  const std::uint64_t available = available_memory_bytes();
  if (available > 0 && wanted > available)
    throw ResourceError(
        fmt::format("{}: the weights need {} of memory, {} is available; convert the "
                    "model to fewer "
                    "bits",
                    checkpoint.directory().string(), format_bytes(wanted),
                    format_bytes(available)));
}

// What a step takes and gives back: activations, and logits of a large vocabulary.
constexpr std::uint64_t kKeptBytes = 64 << 20;

std::set<int> eos_ids(const LoadedModel& loaded) {
  std::set<int> ids;
  for (const std::int64_t id : loaded.model->config().eos_token_ids)
    ids.insert(static_cast<int>(id));
  if (!ids.empty() || !loaded.tokenizer) return ids;
  const auto& named = loaded.tokenizer->special_tokens();
  if (const auto eos = named.find("eos_token"); eos != named.end())
    if (const auto id = loaded.tokenizer->token_id(eos->second)) ids.insert(*id);
  return ids;
}

}  // namespace

LoadedModel load(const std::string& model, const LoadOptions& options) {
  keep_freed_memory(kKeptBytes);
  LoadedModel loaded;
  loaded.directory = find_model(model);
  const auto checkpoint =
      checkpoint::Checkpoint::open(loaded.directory, models::open_options());
  check_memory(checkpoint);
  if (options.text) {
    loaded.tokenizer = text::Tokenizer::load(loaded.directory);
    loaded.chat_template =
        text::ChatTemplate::load(loaded.directory, *loaded.tokenizer);
  }
  loaded.model = models::load(checkpoint);
  loaded.eos_ids = eos_ids(loaded);
  log_debug("{}: {} in memory", loaded.directory.string(),
            format_bytes(static_cast<std::uint64_t>(loaded.model->weight_bytes())));
  return loaded;
}

}  // namespace optiq
