#include "optiq/generate/next_logits.h"

#include <algorithm>

namespace optiq::generation {

NextLogits::NextLogits(Session& session, const DraftOptions& options,
                       kernels::Activation activation)
    : session_(session),
      draft_(make_draft(options, activation)),
      length_(options.most()) {}

void NextLogits::go_on(std::span<const int> history, int more,
                       const kernels::Sampler& sampler) {
  if (at_ < guess_.size() && history.back() == guess_[at_]) {
    ++at_;
    ++row_;
  } else {
    step(history, more, sampler);
  }
}

void NextLogits::step(std::span<const int> history, int more,
                      const kernels::Sampler& sampler) {
  settle(static_cast<int>(history.size()) - 1);
  const auto held = static_cast<std::size_t>(session_.length());
  std::vector<int> rows(history.begin() + static_cast<std::ptrdiff_t>(held),
                        history.end());
  const int unread = static_cast<int>(rows.size());
  if (draft_) {
    const int most = std::min({length_.next(), kStepRows - unread, more});
    if (most > 0) guess_ = draft_->propose(history, most);
    drafted_ += static_cast<int>(guess_.size());
    rows.insert(rows.end(), guess_.begin(), guess_.end());
    // A recurrent state goes back only to where it was kept.
    if (!guess_.empty()) keep_snapshot();
  }
  logits_ =
      session_.step(rows, draws_of(sampler, unread - 1, static_cast<int>(rows.size())));
  row_ = unread - 1;
}

void NextLogits::keep_snapshot() {
  const int length = session_.length();
  if (snapshot_ >= 0 && snapshot_ != length) session_.forget_snapshot(snapshot_);
  // One that somebody else has taken stays when this one's time is over.
  const bool is_new = snapshot_ != length && !session_.state().has_snapshot(length);
  session_.take_snapshot();
  snapshot_ = is_new || snapshot_ == length ? length : -1;
}

void NextLogits::settle(int length) {
  close_guess();
  if (session_.length() <= length) return;
  while (!session_.state().can_truncate(length)) --length;
  session_.truncate(length);
}

void NextLogits::close_guess() {
  length_.told(static_cast<int>(guess_.size()), static_cast<int>(at_));
  accepted_ += static_cast<int>(at_);
  guess_.clear();
  at_ = 0;
}

}  // namespace optiq::generation
