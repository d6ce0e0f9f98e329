#include "optiq/generate/draft/ngram_draft.h"

#include <algorithm>

namespace optiq::generation {
namespace {

constexpr int kPlaces = 16;            // that are compared
constexpr std::size_t kFarthest = 64;  // tokens that a comparison goes back

std::size_t agreement(std::span<const int> tokens, std::size_t end) {
  const std::size_t most = std::min(kFarthest, end);
  std::size_t n = 0;
  while (n < most && tokens[end - 1 - n] == tokens[tokens.size() - 1 - n]) ++n;
  return n;
}

}  // namespace

NgramDraft::NgramDraft(int most, int min)
    : most_(most), min_(static_cast<std::size_t>(std::max(1, min))) {}

std::uint64_t NgramDraft::hash_before(std::span<const int> tokens,
                                      std::size_t end) const {
  std::uint64_t hash = 0x9e3779b97f4a7c15u;
  for (std::size_t i = end - min_; i < end; ++i) {
    hash ^= static_cast<std::uint64_t>(tokens[i]) + (hash << 6) + (hash >> 2);
    hash *= 0xff51afd7ed558ccdu;
  }
  return hash;
}

// Takes note of the places before the last token: what follows them is known.
void NgramDraft::read(std::span<const int> tokens) {
  if (tokens.size() < before_.size()) {  // another text
    last_.clear();
    before_.clear();
  }
  while (before_.size() < tokens.size()) {
    const std::size_t end = before_.size();
    before_.push_back(-1);
    if (end < min_) continue;
    const auto [place, is_new] =
        last_.try_emplace(hash_before(tokens, end), static_cast<int>(end));
    if (!is_new) before_.back() = std::exchange(place->second, static_cast<int>(end));
  }
}

std::vector<int> NgramDraft::propose(std::span<const int> tokens, int most) {
  read(tokens);
  most = std::min(most, most_);
  if (tokens.size() < min_ || most < 1) return {};
  const auto found = last_.find(hash_before(tokens, tokens.size()));
  int at = found == last_.end() ? -1 : found->second;
  std::size_t best_end = 0, best = min_ - 1;
  for (int i = 0; i < kPlaces && at >= 0; ++i) {
    const auto end = static_cast<std::size_t>(at);
    if (const std::size_t n = agreement(tokens, end); n > best) {
      best = n;
      best_end = end;
    }
    at = before_[end];
  }
  if (best_end == 0) return {};
  const auto n = std::min(static_cast<std::size_t>(most), tokens.size() - best_end);
  const auto from = tokens.begin() + static_cast<std::ptrdiff_t>(best_end);
  return {from, from + static_cast<std::ptrdiff_t>(n)};
}

}  // namespace optiq::generation
