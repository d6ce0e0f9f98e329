#include "optiq/server/chat/served_adapters.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <limits>

namespace optiq::server {
namespace {

std::string summary_of(const adapters::LoadedAdapter& adapter) {
  int least = std::numeric_limits<int>::max(), most = 0;
  for (const auto& [name, factors] : adapter.modules) {
    least = std::min(least, factors.rank());
    most = std::max(most, factors.rank());
  }
  std::string text = least == most ? fmt::format("rank {}", most)
                                   : fmt::format("rank {} to {}", least, most);
  if (adapter.is_dora()) text += ", DoRA";
  const auto scaling = adapter.settings.find("rank_scaling");
  if (scaling != adapter.settings.end() && scaling->is_string())
    text += ", ranks " + scaling->get<std::string>();
  return text;
}

}  // namespace

ServedAdapters::Entry ServedAdapters::mount(const std::string& id,
                                            const std::string& source) {
  // A name that is taken costs no reading; add() looks again.
  if (has(id))
    throw std::invalid_argument(
        fmt::format("an adapter of the name \"{}\" is mounted already", id));
  const auto adapter = load_(source);
  Entry entry{id,
              source,
              std::chrono::duration_cast<std::chrono::seconds>(
                  std::chrono::system_clock::now().time_since_epoch())
                  .count(),
              static_cast<int>(adapter->modules.size()),
              adapter->bytes,
              summary_of(*adapter)};
  const std::lock_guard lock(mutex_);
  mounts_.add(id, adapter);
  entries_[id] = entry;
  return entry;
}

void ServedAdapters::unmount(const std::string& id) {
  const std::lock_guard lock(mutex_);
  mounts_.remove(id);
  entries_.erase(id);
  if (default_ == id) default_.clear();
}

bool ServedAdapters::has(const std::string& id) const {
  const std::lock_guard lock(mutex_);
  return entries_.contains(id);
}

std::vector<ServedAdapters::Entry> ServedAdapters::list() const {
  const std::lock_guard lock(mutex_);
  std::vector<Entry> all;
  for (const auto& [id, entry] : entries_) all.push_back(entry);
  return all;
}

std::string ServedAdapters::default_id() const {
  const std::lock_guard lock(mutex_);
  return default_;
}

void ServedAdapters::set_default(const std::string& id) {
  const std::lock_guard lock(mutex_);
  default_ = id;
}

}  // namespace optiq::server
