// Which tokens may come next in one answer, decided token by token.
#pragma once
#include <cstdint>
#include <span>

namespace optiq::generation {

/// A grammar, a limit on thinking, or both. Made for one answer.
///
/// Threads   one at a time: that of the engine.
class TokenPolicy {
 public:
  virtual ~TokenPolicy() = default;

  /// Says what may come next. False: anything may, and `mask` holds nothing of meaning.
  ///
  /// Shapes    mask [ceil(vocab_size / 32)]: token i is bit i % 32 of word i / 32; on
  ///           return set where the token may come, at least one of them
  virtual bool restrict_next(std::span<std::uint32_t> mask) = 0;

  /// The token that came. End tokens are not told.
  virtual void accept(int id) = 0;

  /// True once the answer is complete and nothing may follow.
  virtual bool complete() const = 0;
};

}  // namespace optiq::generation
