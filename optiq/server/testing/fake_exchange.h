// An exchange that remembers what it was told, for tests of routes without HTTP.
#pragma once
#include <condition_variable>
#include <mutex>

#include "optiq/server/http/http.h"

namespace optiq::server::testing {

class FakeExchange final : public http::Exchange {
 public:
  explicit FakeExchange(std::string body) { request_.body = std::move(body); }

  const http::Request& request() const override { return request_; }

  void respond(http::Response response) override {
    const std::lock_guard lock(mutex_);
    if (over_) return;
    status = response.status;
    body = std::move(response.body);
    headers = std::move(response.headers);
    over();
  }

  void begin_stream(int s, std::string, http::Headers) override {
    const std::lock_guard lock(mutex_);
    status = s;
  }

  bool write(std::string piece) override {
    const std::lock_guard lock(mutex_);
    body += piece;
    return !closed_;
  }

  void end() override {
    const std::lock_guard lock(mutex_);
    over();
  }

  bool closed() const override { return closed_; }
  void on_close(std::function<void()> callback) override {
    const std::lock_guard lock(mutex_);
    on_close_ = std::move(callback);
  }

  /// The client goes.
  void leave() {
    std::function<void()> callback;
    {
      const std::lock_guard lock(mutex_);
      closed_ = true;
      callback = on_close_;
    }
    if (callback) callback();
  }

  bool wait() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(20), [&] { return over_; });
  }

  int status = 0;
  std::string body;
  http::Headers headers;

 private:
  void over() {
    over_ = true;
    changed_.notify_all();
  }

  http::Request request_{.id = "req_test", .method = "POST"};
  std::mutex mutex_;
  std::condition_variable changed_;
  bool over_ = false;
  bool closed_ = false;
  std::function<void()> on_close_;
};

}  // namespace optiq::server::testing
