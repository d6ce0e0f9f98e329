// One connection: a coroutine that reads a request, hands it to the pool, and writes
// what the handler says until it has ended; and beside it a reader that notices when
// the client goes. A timer ends whatever takes too long. Only http_server.cpp includes
// this.
//
// The read side's end (FIN) is not yet a leave: a client may close only its sending
// half. A stream finds out by its next bytes, to which a closed socket answers RST.
// Where nothing has been said yet, a 102 (Processing) is said for the same end.
#pragma once
#include <fmt/format.h>

#include <atomic>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <optional>
#include <random>

#include "optiq/base/log.h"
#include "optiq/server/http/exchange.h"
#include "optiq/server/http/http_server.h"
#include "optiq/server/http/target.h"

namespace optiq::server::http {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace wire = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;
using asio::experimental::awaitable_operators::operator||;
using Milliseconds = std::chrono::milliseconds;

constexpr auto kTuple = asio::as_tuple(asio::use_awaitable);

// Of pipelined requests that are read ahead while an answer is on its way.
constexpr std::size_t kReadAhead = 64 << 10;

// A refused body is read on for a while, lest the reset of the connection overtakes the
// answer.
constexpr std::size_t kLingerBytes = 1 << 20;
constexpr Milliseconds kLinger{2000};

inline std::string new_request_id() {
  thread_local std::mt19937_64 random{std::random_device{}()};
  return fmt::format("req_{:016x}{:08x}", random(),
                     static_cast<std::uint32_t>(random()));
}

inline std::string lower_case(std::string_view text) {
  std::string lower(text);
  for (char& c : lower)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return lower;
}

// What a connection needs of its server.
struct Shared {
  HttpOptions options;
  Handler handler;
  asio::io_context io;
  asio::thread_pool pool;
  std::optional<asio::ssl::context> tls;
  std::atomic<int> connections = 0, open_exchanges = 0;
  std::atomic<std::uint64_t> accepted = 0, bad_requests = 0;
  std::atomic<bool> draining = false;

  Shared(HttpOptions o, Handler h)
      : options(std::move(o)),
        handler(std::move(h)),
        pool(static_cast<std::size_t>(options.handler_threads)) {}

  Response error(int status, const std::string& message,
                 const std::string& path) const {
    if (options.error_response) return options.error_response(status, message, path);
    return {status, "text/plain; charset=utf-8", message + "\n"};
  }
};

// Counts an exchange while its connection serves it, and closes its channel.
class Open {
 public:
  Open(Shared& shared, std::shared_ptr<Channel> channel)
      : shared_(shared), channel_(std::move(channel)) {
    ++shared_.open_exchanges;
  }
  ~Open() {
    channel_->close();
    --shared_.open_exchanges;
  }
  Open(const Open&) = delete;
  Open& operator=(const Open&) = delete;

 private:
  Shared& shared_;
  const std::shared_ptr<Channel> channel_;
};

// A connection as its server sees it: something that can be told to hurry.
class Connection {
 public:
  virtual ~Connection() = default;
  virtual void close_if_idle() = 0;
  virtual void cut() = 0;
};

// A request that was read, or why it was not.
struct Refusal {
  int status;  // 0: the client left or said nothing in time: no answer
  std::string message;
};

template <class Stream>
class StreamConnection final
    : public Connection,
      public std::enable_shared_from_this<StreamConnection<Stream>> {
 public:
  StreamConnection(std::shared_ptr<Shared> shared, Stream stream, std::string peer)
      : shared_(std::move(shared)),
        stream_(std::move(stream)),
        deadline_(socket().get_executor()),
        wake_(socket().get_executor()),
        peer_(std::move(peer)),
        buffer_(shared_->options.max_header_bytes + kReadAhead) {
    ++shared_->connections;
  }

  ~StreamConnection() override { --shared_->connections; }

  asio::awaitable<void> run() {
    try {
      bool go_on = co_await shake_hands();
      while (go_on) go_on = co_await serve_one();
    } catch (const std::exception& error) {
      log_debug("{}: {}", peer_, error.what());
    }
    error_code ignored;
    socket().shutdown(tcp::socket::shutdown_both, ignored);
    socket().close(ignored);
  }

  void close_if_idle() override {
    asio::post(socket().get_executor(), [self = this->shared_from_this()] {
      error_code ignored;
      if (self->idle_) self->socket().close(ignored);
    });
  }

  void cut() override {
    asio::post(socket().get_executor(), [self = this->shared_from_this()] {
      error_code ignored;
      self->socket().close(ignored);
      self->deadline_.cancel();
      self->wake_.cancel();
    });
  }

 private:
  using Parser = wire::request_parser<wire::string_body>;

  tcp::socket& socket() {
    if constexpr (std::is_same_v<Stream, tcp::socket>)
      return stream_;
    else
      return stream_.next_layer();
  }

  static constexpr bool kTls = !std::is_same_v<Stream, tcp::socket>;

  // Ends with an error once so much time has passed.
  asio::awaitable<void> time_out(Milliseconds limit) {
    deadline_.expires_after(limit);
    co_await deadline_.async_wait(kTuple);
  }

  asio::awaitable<bool> shake_hands() {
    if constexpr (kTls) {
      auto done =
          co_await (stream_.async_handshake(asio::ssl::stream_base::server, kTuple) ||
                    time_out(shared_->options.header_timeout));
      const auto* result = std::get_if<0>(&done);
      co_return result && !std::get<0>(*result);
    } else {
      co_return true;
    }
  }

  // Reads the first bytes of a request; true if they come before the time is over.
  asio::awaitable<bool> wait_for_bytes() {
    if (buffer_.size() > 0) co_return true;
    idle_ = true;
    const auto space = buffer_.prepare(4096);
    auto done = co_await (stream_.async_read_some(space, kTuple) ||
                          time_out(shared_->options.idle_timeout));
    idle_ = false;
    const auto* result = std::get_if<0>(&done);
    if (!result || std::get<0>(*result)) co_return false;
    buffer_.commit(std::get<1>(*result));
    co_return true;
  }

  asio::awaitable<bool> serve_one() {
    if (shared_->draining) co_return false;
    if (!co_await wait_for_bytes()) co_return false;
    Parser parser;
    parser.header_limit(static_cast<std::uint32_t>(shared_->options.max_header_bytes));
    parser.body_limit(shared_->options.max_body_bytes);
    Target target;
    const Refusal refusal = co_await read_request(parser, target);
    if (refusal.status == 0 && !parser.is_done()) co_return false;
    if (refusal.status != 0) {
      co_await refuse(refusal, target.path);
      co_return false;
    }
    co_return co_await answer(parser, std::move(target));
  }

  asio::awaitable<Refusal> read_request(Parser& parser, Target& target) {
    const HttpOptions& options = shared_->options;
    // Where the header is too large: was it the first line already?
    const bool line_came = has_line();
    auto head = co_await (wire::async_read_header(stream_, buffer_, parser, kTuple) ||
                          time_out(options.header_timeout));
    if (head.index() == 1) co_return Refusal{408, "the header did not come in time"};
    if (const error_code error = std::get<0>(std::get<0>(head))) {
      co_return header_refusal(error, line_came || !parser.get().target().empty());
    }
    const auto& message = parser.get();
    if (message.target().size() > options.max_target_bytes)
      co_return Refusal{414, fmt::format("the target is longer than {} bytes",
                                         options.max_target_bytes)};
    auto parsed = parse_target({message.target().data(), message.target().size()});
    if (!parsed) co_return Refusal{400, "the target is no path"};
    target = std::move(*parsed);
    if (message.version() >= 11 && message.count(wire::field::host) != 1)
      co_return Refusal{400, "expected one Host header"};
    if (message.count(wire::field::content_length) > 1 ||
        message.count(wire::field::transfer_encoding) > 1)
      co_return Refusal{400, "the length of the body is given twice"};
    if (const auto length = parser.content_length();
        length && *length > options.max_body_bytes)
      co_return too_large();
    if (!parser.is_done()) {
      const Refusal refusal = co_await read_body(parser);
      if (refusal.status != 0 || !parser.is_done()) co_return refusal;
    }
    co_return Refusal{0, ""};
  }

  asio::awaitable<Refusal> read_body(Parser& parser) {
    if (beast::iequals(parser.get()[wire::field::expect], "100-continue") &&
        parser.get().version() >= 11) {
      const std::string go_on = "HTTP/1.1 100 Continue\r\n\r\n";
      co_await asio::async_write(stream_, asio::buffer(go_on), kTuple);
    }
    auto body = co_await (wire::async_read(stream_, buffer_, parser, kTuple) ||
                          time_out(shared_->options.body_timeout));
    if (body.index() == 1) co_return Refusal{408, "the body did not come in time"};
    const error_code error = std::get<0>(std::get<0>(body));
    if (error == wire::error::body_limit) co_return too_large();
    if (is_malformed(error))
      co_return Refusal{400, "the body is not framed as its header says"};
    co_return Refusal{0, ""};
  }

  Refusal too_large() const {
    return {413, fmt::format("the body is larger than {} bytes",
                             shared_->options.max_body_bytes)};
  }

  // True if what was read so far has a whole line.
  bool has_line() const {
    const auto data = buffer_.cdata();
    return std::string_view(static_cast<const char*>(data.data()), data.size())
               .find('\n') != std::string_view::npos;
  }

  static bool is_malformed(const error_code& error) {
    return error &&
           error.category() ==
               wire::make_error_code(wire::error::bad_method).category() &&
           error != wire::error::end_of_stream && error != wire::error::partial_message;
  }

  Refusal header_refusal(const error_code& error, bool whole_line) const {
    if (error == wire::error::body_limit) return too_large();
    if (error == wire::error::header_limit || error == wire::error::buffer_overflow)
      return whole_line ? Refusal{431, "the header is too large"}
                        : Refusal{414, "the target is too long"};
    if (error == wire::error::bad_version) return {505, "expected HTTP/1.1"};
    if (is_malformed(error)) return {400, "the request is not HTTP/1.1"};
    return {0, ""};
  }

  asio::awaitable<void> refuse(Refusal refusal, std::string path) {
    ++shared_->bad_requests;
    const Response response = shared_->error(refusal.status, refusal.message, path);
    const std::string bytes =
        whole_answer(response, new_request_id(), {.keep_alive = false});
    auto done = co_await (asio::async_write(stream_, asio::buffer(bytes), kTuple) ||
                          time_out(kLinger));
    (void)done;
    error_code ignored;
    socket().shutdown(tcp::socket::shutdown_send, ignored);
    auto rest = co_await (read_and_drop() || time_out(kLinger));
    (void)rest;
  }

  asio::awaitable<void> read_and_drop() {
    std::vector<char> bytes(16 << 10);
    for (std::size_t dropped = 0; dropped < kLingerBytes;) {
      const auto [error, n] =
          co_await stream_.async_read_some(asio::buffer(bytes), kTuple);
      if (error) co_return;
      dropped += n;
    }
  }

  Request request_of(Parser& parser, Target target) const {
    auto& message = parser.get();
    Request request{.id = new_request_id(),
                    .method = std::string(message.method_string()),
                    .path = std::move(target.path),
                    .query = std::move(target.query),
                    .headers = {},
                    .body = std::move(message.body()),
                    .peer = peer_};
    for (const auto& field : message)
      request.headers.emplace_back(
          lower_case({field.name_string().data(), field.name_string().size()}),
          std::string(field.value()));
    return request;
  }

  // Hands the request over and writes the answer. True if the connection goes on.
  asio::awaitable<bool> answer(Parser& parser, Target target) {
    const auto& message = parser.get();
    const Framing framing{.http_1_0 = message.version() < 11,
                          .keep_alive = message.keep_alive() &&
                                        message.version() >= 11 && !shared_->draining,
                          .head_only = message.method() == wire::verb::head};
    auto channel = std::make_shared<Channel>(
        shared_->options.write_buffer_bytes,
        [executor = socket().get_executor(), weak = this->weak_from_this()] {
          asio::post(executor, [weak] {
            if (const auto self = weak.lock()) self->wake_.cancel();
          });
        });
    const Open open(*shared_, channel);
    const auto began = std::chrono::steady_clock::now();
    written_bytes_ = 0;
    Request request = request_of(parser, std::move(target));
    const std::string what = request.method + " " + request.path;
    const std::string id = request.id;
    start_handler(std::move(request), framing, channel);
    auto done = co_await (write_answer(*channel) || watch(*channel, framing));
    const bool* whole = std::get_if<0>(&done);
    if (whole && *whole) channel->complete();
    log_answer(what, id, channel->status(), whole && *whole,
               std::chrono::steady_clock::now() - began);
    co_return whole&&* whole&& framing.keep_alive;
  }

  // One line for each request: never what was asked, nor the query. What only looks at
  // the server (a page does so each second) is for those who want to know everything.
  void log_answer(const std::string& what, const std::string& id, int status,
                  bool whole, std::chrono::steady_clock::duration time) const {
    const bool looks = what.starts_with("GET ") && status < 400;
    log(looks ? LogLevel::kDebug : LogLevel::kInfo,
        fmt::format("{} {}{} in {:.3f} s, {} bytes, {}", what, status,
                    whole ? "" : " (the client left)",
                    std::chrono::duration<double>(time).count(), written_bytes_, id));
  }

  void start_handler(Request request, Framing framing,
                     std::shared_ptr<Channel> channel) {
    const std::string path = request.path;
    auto exchange = make_exchange(
        std::move(request), framing, std::move(channel), [shared = shared_, path] {
          return shared->error(500, "internal error: the request was not answered",
                               path);
        });
    asio::post(shared_->pool, [shared = shared_, exchange = std::move(exchange), path] {
      try {
        shared->handler(exchange);
      } catch (const std::exception& error) {
        log_error("{} {}: {}", exchange->request().method, path, error.what());
        exchange->respond(shared->error(500, "internal error", path));
      }
    });
  }

  // Writes what comes until the answer has ended. False if it could not be written
  // whole.
  asio::awaitable<bool> write_answer(Channel& channel) {
    asio::steady_timer slow(socket().get_executor());
    for (;;) {
      const std::string bytes = channel.take();
      if (bytes.empty()) {
        const Channel::State state = channel.state();
        if (state == Channel::State::kEnded) co_return true;
        if (state == Channel::State::kCut || !socket().is_open()) co_return false;
        // Whoever queues cancels the wait; one that came in between is seen above.
        wake_.expires_at(asio::steady_timer::time_point::max());
        co_await wake_.async_wait(kTuple);
        continue;
      }
      for (std::size_t written = 0; written < bytes.size();) {
        slow.expires_after(shared_->options.slow_reader_timeout);
        auto done = co_await (
            stream_.async_write_some(
                asio::buffer(bytes.data() + written, bytes.size() - written), kTuple) ||
            slow.async_wait(kTuple));
        const auto* some = std::get_if<0>(&done);
        if (!some || std::get<0>(*some)) co_return false;
        written += std::get<1>(*some);
        written_bytes_ += std::get<1>(*some);
      }
    }
  }

  // Reads ahead, and returns once the client has gone.
  asio::awaitable<void> watch(Channel& channel, Framing framing) {
    for (;;) {
      if (buffer_.size() >= kReadAhead) {
        co_await socket().async_wait(tcp::socket::wait_error, kTuple);
        co_return;
      }
      const auto space = buffer_.prepare(
          std::min<std::size_t>(4096, buffer_.max_size() - buffer_.size()));
      const auto [error, n] = co_await stream_.async_read_some(space, kTuple);
      buffer_.commit(n);
      if (!error) continue;
      const bool half_closed = error == asio::error::eof && !kTls && !framing.http_1_0;
      if (!half_closed) co_return;
      if (!channel.begun() && !channel.push("HTTP/1.1 102 Processing\r\n\r\n"))
        co_return;
      co_await socket().async_wait(tcp::socket::wait_error, kTuple);
      co_return;
    }
  }

  const std::shared_ptr<Shared> shared_;
  Stream stream_;
  asio::steady_timer deadline_;
  asio::steady_timer wake_;
  const std::string peer_;
  beast::flat_buffer buffer_;
  bool idle_ = false;
  std::uint64_t written_bytes_ = 0;  // of the answer on its way
};

}  // namespace optiq::server::http
