// Guesses at the next tokens, which the model checks several at a time.
//
// A step of one token reads all weights; a step of a few tokens of one sequence reads
// them once as well. The model samples behind each guessed token as it would have
// without it, and the guesses hold as long as they are what it samples: the answer is
// the same token for token, at any temperature, and only the number of steps changes.
// For guesses that are certain of themselves, this accepts as often as any exact rule
// can.
//
// Source    Leviathan et al. 2023, "Fast inference from transformers via speculative
//           decoding", section 2.3, with a proposal of one token.
#pragma once
#include <algorithm>
#include <memory>
#include <span>
#include <vector>

#include "optiq/generate/loaded_model.h"
#include "optiq/kernels/linear/activation.h"

namespace optiq::generation {

/// Rows that a step may have in all, drafts among them: what the kernels for few rows
/// take.
inline constexpr int kStepRows = 8;

struct DraftOptions {
  int ngram_tokens = 0;  // most that are copied from earlier in the text; 0: none
  int ngram_min = 3;     // tokens that must agree before that
  std::shared_ptr<LoadedModel> model{};  // a small model with the same tokens, or null
  int model_tokens = 4;                  // most that it drafts

  bool any() const { return ngram_tokens > 0 || model != nullptr; }
  /// Guesses that a step may have to check.
  int most() const {
    return std::min(kStepRows - 1, std::max(ngram_tokens, model ? model_tokens : 0));
  }
};

/// The guesses for one sequence.
///
/// Threads   one.
class Draft {
 public:
  virtual ~Draft() = default;

  /// Tokens that may follow `tokens`, none if nothing suggests itself. Between calls
  /// the sequence grows.
  virtual std::vector<int> propose(std::span<const int> tokens, int most) = 0;
};

/// Copies from earlier in the text where that is possible, and asks the small model
/// where it is not. Null without either.
std::unique_ptr<Draft> make_draft(const DraftOptions& options,
                                  kernels::Activation activation);

/// Throws    std::invalid_argument unless both models have the same tokens
void check_draft_model(const LoadedModel& model, const LoadedModel& draft);

/// How far it is worth to guess, from how the last guesses went.
class DraftLength {
 public:
  explicit DraftLength(int most) : most_(most), length_(most) {}

  /// Tokens to guess now; after guesses that all failed, none for a while.
  int next();

  /// The model has kept `accepted` of `proposed`.
  void told(int proposed, int accepted);

 private:
  int most_;
  int length_;
  int failures_ = 0;  // one after another
  int pause_ = 0;     // steps without a guess that are left
};

}  // namespace optiq::generation
