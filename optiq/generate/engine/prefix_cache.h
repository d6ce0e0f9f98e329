// What sequences have read, kept for prompts that begin alike.
#pragma once
#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "optiq/cache/sequence_state.h"

namespace optiq::generation {

/// Entries share pages with each other and with running sequences, so a conversation of
/// many turns costs little more than its last one.
///
/// Threads   one.
class PrefixCache {
 public:
  /// Forgets the entry that is worth least while the entries hold more than this.
  explicit PrefixCache(std::uint64_t budget_bytes) : budget_bytes_(budget_bytes) {}

  /// A state that has read as much as possible of the beginning of `tokens`, but not
  /// all of them; none if nothing of it is kept.
  ///
  /// Models with recurrent layers can go on only from where an entry ends; others from
  /// anywhere in it.
  std::optional<cache::SequenceState> find(std::span<const int> tokens,
                                           const std::string& salt);

  /// How many tokens find() would give.
  int match(std::span<const int> tokens, const std::string& salt) const;

  /// Keeps a copy of a state that has read `tokens`. One that is there already is only
  /// made young. Does nothing where there is no room. `owner`, if given, is what the
  /// state was computed with: once nobody holds that, the entry is of no use and goes.
  void keep(std::span<const int> tokens, const std::string& salt,
            const cache::SequenceState& state,
            const std::shared_ptr<const void>& owner = nullptr);

  /// Forgets the entry that is worth least: of those that served one request at most,
  /// or else of all, the one that was used longest ago. False if there is none.
  bool evict();

  void clear();

  /// Of the pages and states that entries hold, those that others hold too included.
  std::uint64_t bytes() const { return bytes_; }
  int size() const { return static_cast<int>(entries_.size()); }

 private:
  struct Entry {
    std::vector<int> tokens;
    std::string salt;
    cache::SequenceState state;
    int uses = 0;  // by requests other than the one that left it
    std::optional<std::weak_ptr<const void>> owner{};
  };
  using Entries = std::list<Entry>;  // the youngest first

  static int usable(const Entry& entry, std::span<const int> tokens,
                    const std::string& salt);
  void count(const cache::SequenceState& state, int sign);
  void forget(Entries::iterator entry);
  void forget_orphans();

  std::uint64_t budget_bytes_;
  std::uint64_t bytes_ = 0;
  Entries entries_;
  std::unordered_map<const void*, int> holders_;  // entries that hold a page
};

}  // namespace optiq::generation
