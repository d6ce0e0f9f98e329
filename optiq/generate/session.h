// One sequence under a model: tokens go in, the logits of the last one come out.
#pragma once
#include <functional>
#include <span>
#include <vector>

#include "mlx/array.h"
#include "optiq/cache/sequence_state.h"
#include "optiq/generate/decode_step.h"
#include "optiq/generate/forward.h"
#include "optiq/kernels/linear/linear_primitive.h"
#include "optiq/models/model.h"

namespace optiq::generation {

namespace mx = mlx::core;

struct SessionOptions {
  cache::CacheOptions cache;
  kernels::Activation activation = kernels::Activation::kInt8;
  int chunk = rows_of_prefill();  // tokens of one forward call
};

/// float32 where nothing else is chosen: what `--exact` asks for.
SessionOptions exact_session(cache::CacheOptions cache = {});

/// Answers with the adapter that is active on the calling thread (adapters/mount.h).
///
/// Threads   one.
class Session {
 public:
  /// A session with a cache of its own.
  ///
  /// Requires  `model` outlives this.
  /// Throws    as cache::KvCache does
  Session(models::Model& model, const SessionOptions& options);

  /// Takes tokens in, in chunks. The logits of the last one are evaluated.
  ///
  /// Shapes    -> [vocab_size] float32
  /// Requires  at least one token, each in [0, vocab_size)
  /// Throws    std::invalid_argument if a token is not, or the context is full;
  ///           Interrupted between chunks: the tokens of finished chunks stay.
  mx::array feed(std::span<const int> tokens);

  /// Takes a few tokens in at once, fewer than a chunk: a step of speculation. `draws`
  /// as DecodeStep's.
  ///
  /// Shapes    -> [tokens, vocab_size] float32, evaluated: behind each of them
  StepLogits step(std::span<const int> tokens,
                  std::vector<kernels::RowDraw> draws = {});

  /// The same, with what the last layer gives for each token: `on_rows(first, hidden)`
  /// is called per chunk, in order, evaluated.
  ///
  /// Shapes    hidden [rows, hidden_size] float32; `first` counts within `tokens`
  void feed_hidden(
      std::span<const int> tokens,
      const std::function<void(int first, const mx::array& hidden)>& on_rows);

  /// The same with the logits of every token: `on_rows(first, logits)` is called per
  /// chunk, in order.
  ///
  /// Shapes    logits [rows, vocab_size] float32; `first` counts within `tokens`
  void feed_all(std::span<const int> tokens,
                const std::function<void(int first, const mx::array& logits)>& on_rows);

  /// Called after each forward call with the number of its tokens.
  void on_chunk(std::function<void(int tokens)> callback) {
    on_chunk_ = std::move(callback);
  }

  /// Throws    std::invalid_argument if `tokens` cannot be fed.
  void check(std::span<const int> tokens) const;

  /// Another session that has taken in the same tokens; they share what neither
  /// changes.
  Session fork() const;

  /// Lets truncate() come back to this length, for models with recurrent layers.
  void take_snapshot() { state_.take_snapshot(); }

  void forget_snapshot(int length) { state_.forget_snapshot(length); }

  /// Forgets all but the first `length` tokens, as if the others had never been fed.
  ///
  /// Throws    as cache::SequenceState does
  void truncate(int length);

  int length() const { return state_.length(); }

  /// The tokens taken in so far.
  const std::vector<int>& tokens() const { return tokens_; }
  const cache::SequenceState& state() const { return state_; }

 private:
  Session(models::Model& model, SessionOptions options, cache::SequenceState state,
          std::vector<int> tokens);

  mx::array decode(int token);
  void fit_rotation(std::size_t more);

  template <class UseHidden>
  void run_chunks(std::span<const int> tokens, UseHidden&& use_hidden);

  models::Model& model_;
  SessionOptions options_;
  cache::SequenceState state_;
  std::vector<int> tokens_;
  std::function<void(int)> on_chunk_;
  DecodeStep decode_step_;
};

}  // namespace optiq::generation
