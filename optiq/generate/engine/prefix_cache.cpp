#include "optiq/generate/engine/prefix_cache.h"

#include <algorithm>
#include <iterator>

#include "optiq/base/error.h"

namespace optiq::generation {
namespace {

int common_prefix(std::span<const int> a, std::span<const int> b) {
  const auto n = std::min(a.size(), b.size());
  const auto end = a.begin() + static_cast<std::ptrdiff_t>(n);
  return static_cast<int>(std::mismatch(a.begin(), end, b.begin()).first - a.begin());
}

}  // namespace

int PrefixCache::usable(const Entry& entry, std::span<const int> tokens,
                        const std::string& salt) {
  if (entry.salt != salt || tokens.empty()) return 0;
  const int common = common_prefix(tokens.first(tokens.size() - 1), entry.tokens);
  const bool whole = common == static_cast<int>(entry.tokens.size());
  return whole || !entry.state.cache().has_recurrent_layers() ? common : 0;
}

int PrefixCache::match(std::span<const int> tokens, const std::string& salt) const {
  int best = 0;
  for (const Entry& entry : entries_)
    best = std::max(best, usable(entry, tokens, salt));
  return best;
}

std::optional<cache::SequenceState> PrefixCache::find(std::span<const int> tokens,
                                                      const std::string& salt) {
  int best = 0;
  auto found = entries_.end();
  for (auto entry = entries_.begin(); entry != entries_.end(); ++entry)
    if (const int n = usable(*entry, tokens, salt); n > best) {
      best = n;
      found = entry;
    }
  if (found == entries_.end()) return std::nullopt;
  entries_.splice(entries_.begin(), entries_, found);
  ++found->uses;
  cache::SequenceState state = found->state.fork();
  state.truncate(best);
  return state;
}

void PrefixCache::keep(std::span<const int> tokens, const std::string& salt,
                       const cache::SequenceState& state,
                       const std::shared_ptr<const void>& owner) {
  OPTIQ_CHECK(state.length() == static_cast<int>(tokens.size()),
              "as many as were read");
  if (tokens.empty() || budget_bytes_ == 0) return;
  for (auto entry = entries_.begin(); entry != entries_.end(); ++entry)
    if (entry->salt == salt && std::ranges::equal(entry->tokens, tokens)) {
      entries_.splice(entries_.begin(), entries_, entry);
      return;
    }
  forget_orphans();
  try {
    entries_.push_front({{tokens.begin(), tokens.end()}, salt, state.fork(), 0});
    if (owner) entries_.front().owner = owner;
  } catch (const ResourceError&) {
    return;
  }
  count(entries_.front().state, +1);
  // Never itself, unless it alone is too large.
  while (bytes_ > budget_bytes_ && evict()) {
  }
}

bool PrefixCache::evict() {
  if (entries_.empty()) return false;
  // The youngest is spared: it is where somebody goes on right now.
  const auto once = std::find_if(entries_.rbegin(), std::prev(entries_.rend()),
                                 [](const Entry& entry) { return entry.uses < 2; });
  auto worst = std::prev(entries_.end());
  if (once != std::prev(entries_.rend()))
    worst = std::prev(once.base());
  else  // all have served several: by now that is long ago
    for (Entry& entry : entries_) entry.uses /= 2;
  forget(worst);
  return true;
}

void PrefixCache::forget(Entries::iterator entry) {
  count(entry->state, -1);
  entries_.erase(entry);
}

void PrefixCache::forget_orphans() {
  for (auto entry = entries_.begin(); entry != entries_.end();) {
    const auto next = std::next(entry);
    if (entry->owner && entry->owner->expired()) forget(entry);
    entry = next;
  }
}

void PrefixCache::clear() {
  while (!entries_.empty()) forget(entries_.begin());
}

void PrefixCache::count(const cache::SequenceState& state, int sign) {
  const auto add = [&](std::uint64_t bytes) {
    bytes_ = sign > 0 ? bytes_ + bytes : bytes_ - bytes;
  };
  add(static_cast<std::uint64_t>(state.cache().recurrent_bytes()));
  state.for_each_page([&](const void* page, std::size_t page_bytes) {
    int& holders = holders_[page];
    if (holders == (sign > 0 ? 0 : 1)) add(page_bytes);
    holders += sign;
    if (holders == 0) holders_.erase(page);
  });
}

}  // namespace optiq::generation
