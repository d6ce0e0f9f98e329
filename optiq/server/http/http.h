// HTTP as the rest of the server sees it: a request that has been read, and the way to
// answer it.
#pragma once
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace optiq::server::http {

using Headers = std::vector<std::pair<std::string, std::string>>;

struct Request {
  std::string id;      // ours, for logs and replies: "req_" and 24 hex digits
  std::string method;  // "GET"
  std::string path;    // decoded, without the query
  std::string query;   // as it came, without '?'
  Headers headers;     // names in lower case
  std::string body;
  std::string peer;  // "127.0.0.1:51234"

  /// The first header of this name; empty if there is none.
  std::string_view header(std::string_view lower_case_name) const;
};

struct Response {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  Headers headers = {};  // further ones
};

/// One request and its answer: either respond(), or begin_stream(), write()... and
/// end(). Dropping the last reference without an answer answers 500; with an open
/// stream, cuts the connection.
///
/// Threads   any; calls of one exchange one at a time, but closed() and on_close() at
/// any
///           time.
class Exchange {
 public:
  virtual ~Exchange() = default;

  virtual const Request& request() const = 0;

  /// The whole answer. Nothing happens if the client has gone.
  virtual void respond(Response response) = 0;

  /// The head of an answer that comes in pieces (chunked; `text/event-stream` for SSE).
  virtual void begin_stream(int status, std::string content_type,
                            Headers headers = {}) = 0;

  /// Queues a piece. False once the client has gone or reads too slowly (its buffer,
  /// 1 MiB, is full for too long): the caller should stop.
  virtual bool write(std::string piece) = 0;

  virtual void end() = 0;

  /// True once the client has gone.
  virtual bool closed() const = 0;

  /// Called once, on any thread, if the client goes before the answer is complete; at
  /// once if it has gone already. A client that closes only its sending half (FIN) has
  /// not gone while it still reads.
  virtual void on_close(std::function<void()> callback) = 0;
};

/// Answers requests, each on a thread of a pool; it may block for some milliseconds.
/// What it throws is answered with 500 and logged.
using Handler = std::function<void(std::shared_ptr<Exchange>)>;

}  // namespace optiq::server::http
