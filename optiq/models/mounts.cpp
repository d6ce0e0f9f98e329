#include "optiq/models/mounts.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <stdexcept>

namespace optiq::models {

bool means_no_adapter(const std::string& id) {
  return id.empty() || id == "base" || id == "none" || id == "off";
}

void Mounts::add(const std::string& id, AdapterPtr adapter) {
  if (means_no_adapter(id) || id.find_first_of("+,") != std::string::npos)
    throw std::invalid_argument(fmt::format(
        "expected a name for the adapter other than base, none and off, without + and "
        ",; found \"{}\"",
        id));
  const std::lock_guard lock(mutex_);
  if (!adapters_.try_emplace(id, std::move(adapter)).second)
    throw std::invalid_argument(
        fmt::format("an adapter of the name \"{}\" is mounted already", id));
}

void Mounts::remove(const std::string& id) {
  AdapterPtr last;  // goes while nothing is locked
  std::map<std::string, AdapterPtr> stacks;
  const std::lock_guard lock(mutex_);
  last = one(id);
  adapters_.erase(id);
  stacks.swap(stacks_);
}

AdapterPtr Mounts::one(const std::string& id) const {
  const auto at = adapters_.find(id);
  if (at != adapters_.end()) return at->second;
  std::vector<std::string> names;
  for (const auto& [name, adapter] : adapters_) names.push_back(name);
  throw std::invalid_argument(fmt::format(
      "no adapter \"{}\" is mounted; there {}", id,
      names.empty() ? "is none" : fmt::format("are: {}", fmt::join(names, ", "))));
}

AdapterPtr Mounts::find(const std::string& id) const {
  if (means_no_adapter(id)) return nullptr;
  const std::lock_guard lock(mutex_);
  if (id.find_first_of("+,") == std::string::npos) return one(id);
  if (const auto at = stacks_.find(id); at != stacks_.end()) return at->second;
  std::vector<AdapterPtr> parts;
  for (std::size_t begin = 0; begin <= id.size();) {
    const std::size_t end = std::min(id.find_first_of("+,", begin), id.size());
    parts.push_back(one(id.substr(begin, end - begin)));
    begin = end + 1;
  }
  auto stack = std::make_shared<const Adapter>(stacked(parts));
  stacks_.emplace(id, stack);
  return stack;
}

std::vector<std::string> Mounts::ids() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> ids;
  for (const auto& [id, adapter] : adapters_) ids.push_back(id);
  return ids;
}

}  // namespace optiq::models
