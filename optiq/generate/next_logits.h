// The logits behind each token of an answer, in as few steps as guesses allow.
#pragma once
#include <memory>
#include <span>
#include <vector>

#include "optiq/generate/draft/draft.h"
#include "optiq/generate/session.h"

namespace optiq::generation {

/// One sequence that grows token by token. Without guesses each token is a step; with
/// them a step reads some guesses more, and tokens that were guessed cost none.
///
/// Threads   one.
class NextLogits {
 public:
  /// Requires  `session` outlives this and nobody else feeds it meanwhile.
  NextLogits(Session& session, const DraftOptions& options,
             kernels::Activation activation);

  /// Finds the logits behind the last token of `history`: what the session held at
  /// first, and since then one token more each call. `more` tokens may still come after
  /// that one. `sampler` is who will choose from them.
  ///
  /// Throws    as Session::feed
  void go_on(std::span<const int> history, int more, const kernels::Sampler& sampler);

  /// The sampler's choice from them.
  int sample(kernels::Sampler& sampler, std::span<const int> history) {
    return generation::sample(sampler, logits_, row_, history);
  }

  /// Takes back guesses that the session holds behind its first `length` tokens. A
  /// recurrent model may have to go back farther.
  void settle(int length);

  int drafted() const { return drafted_; }
  int accepted() const { return accepted_; }

 private:
  void step(std::span<const int> history, int more, const kernels::Sampler& sampler);
  void keep_snapshot();
  void close_guess();

  Session& session_;
  std::unique_ptr<Draft> draft_;  // null: none
  DraftLength length_;
  std::vector<int> guess_;  // that the session has read
  std::size_t at_ = 0;      // guesses that have come true
  StepLogits logits_;       // of the last step
  int row_ = 0;             // behind the last token of the history
  int snapshot_ = -1;       // length at which one was taken here
  int drafted_ = 0, accepted_ = 0;
};

}  // namespace optiq::generation
