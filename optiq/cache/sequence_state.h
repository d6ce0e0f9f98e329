// What the layers of a model remember of one sequence.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "mlx/array.h"
#include "optiq/cache/kv_cache.h"
#include "optiq/cache/page_list.h"
#include "optiq/kernels/attention/attention_primitive.h"

namespace optiq::cache {

namespace mx = mlx::core;

/// The memory of a gated delta net, of a fixed size.
struct RecurrentState {
  mx::array conv_tail;    // [kernel - 1, channels]
  mx::array delta_state;  // [Hv, Dk, Dv]
};

/// The memory of one sequence: pages for attention layers, and a state for recurrent
/// ones.
///
/// Threads   used by one thread at a time; forks by others.
class SequenceState {
 public:
  /// An empty sequence. Pages are taken as it grows.
  ///
  /// Throws    ResourceError if there is no room for the recurrent states
  explicit SequenceState(std::shared_ptr<KvCache> cache);
  SequenceState(SequenceState&&) noexcept = default;
  SequenceState& operator=(SequenceState&&) noexcept = default;

  /// Tokens remembered.
  int length() const { return length_; }

  /// Whether its tokens turn by the rotary frequencies for long sequences, in models
  /// that have two sets of them (longrope). Said before the first token comes.
  bool turns_long() const { return turns_long_; }
  void set_turns_long(bool value) { turns_long_ = value; }

  /// Makes room for `tokens` more, before the graph that writes them is built.
  ///
  /// Throws    ResourceError; the sequence is as it was
  void prepare(int tokens);

  /// Counts tokens that the layers have taken in.
  void advance(int tokens) { length_ += tokens; }

  /// Another sequence that remembers the same. They share what neither changes.
  ///
  /// Throws    ResourceError if there is no room for recurrent states
  SequenceState fork() const;

  /// Remembers the recurrent states as they are now, so that truncate() can come back
  /// here. Without recurrent layers it does nothing.
  ///
  /// Throws    ResourceError if there is no room for it
  void take_snapshot();

  bool has_snapshot(int length) const { return snapshot_at(length) != nullptr; }

  /// Forgets the snapshot of that length, if there is one.
  void forget_snapshot(int length);

  /// True if truncate(length) can be done.
  bool can_truncate(int length) const;

  /// Forgets all but the first `length` tokens, as if the others had never come.
  ///
  /// Throws    std::invalid_argument if `length` is more than length(), or if there are
  ///           recurrent layers and no snapshot of that length
  void truncate(int length);

  /// The state of a recurrent layer.
  RecurrentState& recurrent(int i) { return *recurrent_[static_cast<std::size_t>(i)]; }

  /// The pages of an attention layer, for paged_attention.
  kernels::PagedKv pages(int i) const;

  /// Each page that it holds, with its size: to count what sequences share.
  void for_each_page(
      const std::function<void(const void* page, std::size_t bytes)>& use) const;

  /// The recurrent layers' arrays, for mx::eval.
  std::vector<mx::array> arrays() const;

  /// Where these arrays lie; null for one that somebody else holds too (a snapshot, a
  /// fork), whose memory must not be written in place.
  std::vector<const void*> addresses() const;

  const KvCache& cache() const { return *cache_; }

 private:
  using RecurrentStates = std::vector<std::optional<RecurrentState>>;  // by layer
  struct Snapshot {
    int length;
    RecurrentStates states;
    std::shared_ptr<const Reservation> room;
  };

  RecurrentStates empty_states() const;
  void restore(const RecurrentStates& states);
  const Snapshot* snapshot_at(int length) const;

  std::shared_ptr<KvCache> cache_;
  std::shared_ptr<const Reservation> room_;  // of the recurrent states
  RecurrentStates recurrent_;
  std::vector<Snapshot> snapshots_;  // by length
  PageList pages_;
  int length_ = 0;
  bool turns_long_ = false;
};

}  // namespace optiq::cache
