#include "optiq/generate/draft/draft.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include "optiq/generate/draft/model_draft.h"
#include "optiq/generate/draft/ngram_draft.h"

namespace optiq::generation {
namespace {

// Failures after which guessing pauses, and the longest pause, in steps.
constexpr int kPatience = 2;
constexpr int kLongestPause = 64;

class DraftOfBoth final : public Draft {
 public:
  DraftOfBoth(std::unique_ptr<Draft> first, std::unique_ptr<Draft> second)
      : first_(std::move(first)), second_(std::move(second)) {}

  std::vector<int> propose(std::span<const int> tokens, int most) override {
    std::vector<int> guess = first_->propose(tokens, most);
    return guess.empty() ? second_->propose(tokens, most) : guess;
  }

 private:
  std::unique_ptr<Draft> first_, second_;
};

}  // namespace

std::unique_ptr<Draft> make_draft(const DraftOptions& options,
                                  kernels::Activation activation) {
  std::unique_ptr<Draft> ngram, model;
  if (options.ngram_tokens > 0)
    ngram = std::make_unique<NgramDraft>(options.ngram_tokens, options.ngram_min);
  if (options.model)
    model =
        std::make_unique<ModelDraft>(options.model, options.model_tokens, activation);
  if (ngram && model)
    return std::make_unique<DraftOfBoth>(std::move(ngram), std::move(model));
  return ngram ? std::move(ngram) : std::move(model);
}

void check_draft_model(const LoadedModel& model, const LoadedModel& draft) {
  // Sizes may differ by padding; what text becomes must not.
  constexpr const char* kProbe =
      "The 42 quick-brown foxes said: \"x = {y: [1, 2]}\"\n\tÄöü 你好 🦊 fn "
      "main() "
      "{}";
  const auto ids = [&](const LoadedModel& m) {
    return m.tokenizer ? m.tokenizer->encode(kProbe) : std::vector<int>{};
  };
  if (ids(model) != ids(draft))
    throw std::invalid_argument(
        fmt::format("draft model: expected one with the tokens of {}, found {}, whose "
                    "tokens differ",
                    model.directory.string(), draft.directory.string()));
}

int DraftLength::next() {
  if (pause_ > 0) {
    --pause_;
    return 0;
  }
  return length_;
}

void DraftLength::told(int proposed, int accepted) {
  if (proposed == 0) return;
  if (accepted > 0) {
    failures_ = 0;
    length_ = accepted == proposed ? std::min(most_, length_ + 2)
                                   : std::max(1, (length_ + accepted + 1) / 2);
    return;
  }
  length_ = std::max(1, length_ / 2);
  if (++failures_ >= kPatience)
    pause_ = std::min(kLongestPause, 1 << std::min(failures_, 6));
}

}  // namespace optiq::generation
