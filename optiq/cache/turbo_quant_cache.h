// The cache of one attention layer in TurboQuant codes, by itself.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "mlx/array.h"
#include "optiq/cache/sequence_state.h"

namespace optiq::cache {

/// Keys and values of one layer and sequence, rotated and coded as a model's are when
/// CacheOptions ask for turbo.
///
/// Threads   one.
/// Source    TurboQuant, arXiv 2504.19874; docs/decisions/kv-pages.md says what of it
class TurboQuantCache {
 public:
  /// The same seed gives the same codes everywhere.
  ///
  /// Throws    std::invalid_argument if the format does not take `bits`, or head_dim is
  ///           less than 1 or more than attention takes
  TurboQuantCache(int head_dim, int bits, std::uint64_t seed);

  /// Appends keys and values, and attends to them and all before them.
  ///
  /// Shapes    q [T, n_heads, head_dim], keys and values [T, n_kv_heads, head_dim]
  ///           float32 -> [T, n_heads, head_dim], evaluated
  /// Throws    std::invalid_argument for other shapes; ResourceError
  mx::array attend(const mx::array& q, const mx::array& keys, const mx::array& values,
                   const kernels::AttentionOptions& options);

  /// The keys and values, decoded and rotated back.
  ///
  /// Shapes    each [n_kv_heads, length, head_dim] float32
  /// Requires  something was appended
  std::pair<mx::array, mx::array> fetch() const;

  /// Forgets all but the first `length` tokens.
  ///
  /// Throws    std::invalid_argument if there are not as many
  void truncate(int length);

  int length() const { return state_ ? state_->length() : 0; }

  /// Bytes of a token's keys and values; 0 while nothing was appended.
  std::int64_t bytes_per_token() const {
    return state_ ? state_->cache().bytes_per_token() : 0;
  }

 private:
  int head_dim_;
  KvFormat format_;
  std::uint64_t seed_;
  std::optional<SequenceState> state_;  // made when the number of heads is known
};

}  // namespace optiq::cache
