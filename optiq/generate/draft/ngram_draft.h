// Guesses that what followed the last few tokens before follows them again.
#pragma once
#include <cstdint>
#include <unordered_map>

#include "optiq/generate/draft/draft.h"

namespace optiq::generation {

/// Looks for the last `min` tokens earlier in the text, and of the places where they
/// stand prefers the one that agrees farthest back, of equals the latest.
///
/// Cost      a few hash lookups a token; memory: some 40 bytes a token of the text.
/// Source    Saxena 2023, "Prompt lookup decoding"; Yang et al. 2023, "Inference with
///           reference" (arXiv 2304.04487)
class NgramDraft final : public Draft {
 public:
  NgramDraft(int most, int min);

  std::vector<int> propose(std::span<const int> tokens, int most) override;

 private:
  void read(std::span<const int> tokens);
  std::uint64_t hash_before(std::span<const int> tokens, std::size_t end) const;

  int most_;
  std::size_t min_;
  // The position behind each run of `min` tokens by its hash: the last one, and for
  // each position the one before.
  std::unordered_map<std::uint64_t, int> last_;
  std::vector<int> before_;  // by position; -1: none
};

}  // namespace optiq::generation
