#include "optiq/server/http/channel.h"

#include <utility>

namespace optiq::server::http {

bool Channel::push(std::string bytes) {
  {
    const std::lock_guard lock(mutex_);
    if (closed_ || state_ != State::kOpen) return false;
    begun_ = true;
    if (pending_.size() + bytes.size() > most_bytes_ && !pending_.empty()) {
      state_ = State::kCut;
    } else {
      pending_ += bytes;
    }
    if (notify_) notify_();
    return state_ == State::kOpen;
  }
}

void Channel::leave(State state) {
  const std::lock_guard lock(mutex_);
  if (state_ != State::kOpen) return;
  state_ = state;
  if (notify_) notify_();
}

std::string Channel::take() {
  const std::lock_guard lock(mutex_);
  return std::exchange(pending_, {});
}

Channel::State Channel::state() const {
  const std::lock_guard lock(mutex_);
  // What was queued before the end still has to go.
  return state_ == State::kEnded && !pending_.empty() ? State::kOpen : state_;
}

bool Channel::begun() const {
  const std::lock_guard lock(mutex_);
  return begun_;
}

bool Channel::closed() const {
  const std::lock_guard lock(mutex_);
  return closed_ || state_ == State::kCut;
}

void Channel::close() {
  std::vector<std::function<void()>> callbacks;
  std::function<void()> notify;
  {
    const std::lock_guard lock(mutex_);
    if (closed_) return;
    closed_ = true;
    if (!complete_) callbacks = std::move(on_close_);
    on_close_.clear();
    notify = std::move(notify_);
    notify_ = nullptr;
  }
  for (const auto& callback : callbacks) callback();
}

void Channel::on_close(std::function<void()> callback) {
  {
    const std::lock_guard lock(mutex_);
    if (complete_) return;
    if (!closed_) {
      on_close_.push_back(std::move(callback));
      return;
    }
  }
  callback();
}

void Channel::complete() {
  std::vector<std::function<void()>> callbacks;  // go while nothing is locked
  const std::lock_guard lock(mutex_);
  complete_ = true;
  callbacks.swap(on_close_);
}

}  // namespace optiq::server::http
