// What a handler has to say, on its way to a connection: bytes from any thread, taken
// by the connection's.
#pragma once
#include <atomic>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

namespace optiq::server::http {

/// Threads   any.
class Channel {
 public:
  enum class State {
    kOpen,
    kEnded,  // the answer is whole
    kCut,    // given up by the server: the connection closes without an end
  };

  /// Pieces beyond `most_bytes` that the client has not taken cut the answer.
  Channel(std::size_t most_bytes, std::function<void()> notify)
      : most_bytes_(most_bytes), notify_(std::move(notify)) {}

  /// Queues bytes; the connection is notified. False if nobody takes them any more.
  bool push(std::string bytes);

  void end() { leave(State::kEnded); }
  void cut() { leave(State::kCut); }

  /// What is queued. Called by the connection.
  std::string take();
  State state() const;

  /// True once bytes were queued.
  bool begun() const;

  /// The answer's status, for the log; 0 until it is known.
  void set_status(int status) { status_ = status; }
  int status() const { return status_; }

  /// The client has gone: callbacks are called, now and later ones at once. The
  /// connection is not notified any more.
  void close();
  bool closed() const;
  void on_close(std::function<void()> callback);

  /// The answer is on its way whole: nobody needs to hear of a close.
  void complete();

 private:
  void leave(State state);

  const std::size_t most_bytes_;
  mutable std::mutex mutex_;
  std::function<void()> notify_;
  std::string pending_;
  State state_ = State::kOpen;
  std::atomic<int> status_ = 0;
  bool begun_ = false;
  bool closed_ = false;
  bool complete_ = false;
  std::vector<std::function<void()>> on_close_;
};

}  // namespace optiq::server::http
