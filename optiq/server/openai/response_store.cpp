#include "optiq/server/openai/response_store.h"

namespace optiq::server::openai {
namespace {

constexpr std::size_t kMostKept = 256;

}  // namespace

void ResponseStore::keep(const std::string& id, Json messages) {
  const std::lock_guard lock(mutex_);
  kept_.emplace_front(id, std::move(messages));
  if (kept_.size() > kMostKept) kept_.pop_back();
}

std::optional<Json> ResponseStore::find(const std::string& id) const {
  const std::lock_guard lock(mutex_);
  for (const auto& [name, messages] : kept_)
    if (name == id) return messages;
  return std::nullopt;
}

}  // namespace optiq::server::openai
