// Listens, and begins a coroutine for each connection (connection.h).
#include "optiq/server/http/http_server.h"

#include <fmt/format.h>

#include <atomic>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/strand.hpp>
#include <list>
#include <mutex>
#include <thread>

#include "optiq/base/error.h"
#include "optiq/server/http/connection.h"

namespace optiq::server::http {
namespace {

// Out of file descriptors: those who leave free some.
constexpr Milliseconds kAcceptPause{100};

}  // namespace

class HttpServer::Impl {
 public:
  Impl(HttpOptions options, Handler handler)
      : shared_(std::make_shared<Shared>(std::move(options), std::move(handler))),
        acceptor_(shared_->io) {
    const HttpOptions& o = shared_->options;
    if (!o.tls_certificate.empty()) set_up_tls();
    try {
      tcp::resolver resolver(shared_->io);
      const auto found =
          resolver.resolve(o.host, std::to_string(o.port), tcp::resolver::passive);
      const tcp::endpoint endpoint = found.begin()->endpoint();
      acceptor_.open(endpoint.protocol());
      acceptor_.set_option(tcp::acceptor::reuse_address(true));
      acceptor_.bind(endpoint);
      acceptor_.listen(1024);
      port_ = acceptor_.local_endpoint().port();
    } catch (const boost::system::system_error& error) {
      throw ResourceError(fmt::format("cannot listen on {} port {}: {}", o.host, o.port,
                                      error.code().message()));
    }
  }

  ~Impl() { stop(); }

  void start() {
    asio::co_spawn(shared_->io, accept(), asio::detached);
    for (int i = 0; i < shared_->options.io_threads; ++i)
      threads_.emplace_back([shared = shared_] { shared->io.run(); });
  }

  int port() const { return port_; }

  bool drain(Milliseconds limit) {
    shared_->draining = true;
    asio::post(shared_->io, [this] {
      error_code ignored;
      acceptor_.close(ignored);
    });
    for_each([](Connection& connection) { connection.close_if_idle(); });
    const auto until = std::chrono::steady_clock::now() + limit;
    while (shared_->open_exchanges > 0 && std::chrono::steady_clock::now() < until)
      std::this_thread::sleep_for(Milliseconds(10));
    return shared_->open_exchanges == 0;
  }

  void stop() {
    if (stopped_.exchange(true)) return;
    shared_->draining = true;
    asio::post(shared_->io, [this] {
      error_code ignored;
      acceptor_.close(ignored);
    });
    for_each([](Connection& connection) { connection.cut(); });
    // Coroutines end by themselves, and then there is no more work.
    if (threads_.empty()) shared_->io.run();
    for (std::thread& thread : threads_) thread.join();
    shared_->pool.join();
  }

  HttpStatus status() const {
    return {.connections = shared_->connections,
            .open_exchanges = shared_->open_exchanges,
            .accepted = shared_->accepted,
            .bad_requests = shared_->bad_requests};
  }

 private:
  void set_up_tls() {
    const HttpOptions& o = shared_->options;
    shared_->tls.emplace(asio::ssl::context::tls_server);
    try {
      shared_->tls->set_options(asio::ssl::context::default_workarounds |
                                asio::ssl::context::no_tlsv1 |
                                asio::ssl::context::no_tlsv1_1);
      shared_->tls->use_certificate_chain_file(o.tls_certificate.string());
      shared_->tls->use_private_key_file(o.tls_key.string(), asio::ssl::context::pem);
    } catch (const boost::system::system_error& error) {
      throw ResourceError(fmt::format("TLS with {} and {}: {}",
                                      o.tls_certificate.string(), o.tls_key.string(),
                                      error.code().message()));
    }
  }

  template <class Use>
  void for_each(Use&& use) {
    const std::lock_guard lock(mutex_);
    std::erase_if(connections_, [&](const std::weak_ptr<Connection>& weak) {
      const auto connection = weak.lock();
      if (connection) use(*connection);
      return !connection;
    });
  }

  asio::awaitable<void> accept() {
    asio::steady_timer pause(shared_->io);
    while (acceptor_.is_open() && !shared_->draining) {
      const asio::any_io_executor strand = asio::make_strand(shared_->io);
      auto [error, socket] = co_await acceptor_.async_accept(strand, kTuple);
      if (error == asio::error::operation_aborted || !acceptor_.is_open()) co_return;
      if (error) {
        log_warning("cannot accept a connection: {}", error.message());
        pause.expires_after(kAcceptPause);
        co_await pause.async_wait(kTuple);
        continue;
      }
      ++shared_->accepted;
      if (shared_->connections >= shared_->options.max_connections) {
        turn_away(socket);
        continue;
      }
      error_code ignored;
      socket.set_option(tcp::no_delay(true), ignored);
      begin(std::move(socket));
    }
  }

  // A short answer fits into the socket's own buffer: nothing waits for this client.
  void turn_away(tcp::socket& socket) {
    const std::string bytes = whole_answer(
        shared_->error(503, "too many connections", "/"), "", {.keep_alive = false});
    error_code ignored;
    if (!shared_->tls) {
      socket.non_blocking(true, ignored);
      socket.write_some(asio::buffer(bytes), ignored);
    }
    socket.shutdown(tcp::socket::shutdown_send, ignored);
  }

  void begin(tcp::socket socket) {
    error_code error;
    const auto remote = socket.remote_endpoint(error);
    std::string peer =
        error ? "?" : fmt::format("{}:{}", remote.address().to_string(), remote.port());
    const auto executor = socket.get_executor();
    if (shared_->tls)
      spawn(
          std::make_shared<StreamConnection<asio::ssl::stream<tcp::socket>>>(
              shared_, asio::ssl::stream<tcp::socket>(std::move(socket), *shared_->tls),
              std::move(peer)),
          executor);
    else
      spawn(std::make_shared<StreamConnection<tcp::socket>>(shared_, std::move(socket),
                                                            std::move(peer)),
            executor);
  }

  template <class Made>
  void spawn(std::shared_ptr<Made> connection, const asio::any_io_executor& executor) {
    {
      const std::lock_guard lock(mutex_);
      if (connections_.size() > 64 &&
          connections_.size() > 2 * static_cast<std::size_t>(shared_->connections))
        std::erase_if(connections_, [](const auto& weak) { return weak.expired(); });
      connections_.push_back(connection);
    }
    asio::co_spawn(
        executor, [connection]() -> asio::awaitable<void> { return connection->run(); },
        asio::detached);
  }

  const std::shared_ptr<Shared> shared_;
  tcp::acceptor acceptor_;
  int port_ = 0;
  std::vector<std::thread> threads_;
  std::atomic<bool> stopped_ = false;
  std::mutex mutex_;
  std::list<std::weak_ptr<Connection>> connections_;
};

HttpServer::HttpServer(HttpOptions options, Handler handler)
    : impl_(std::make_unique<Impl>(std::move(options), std::move(handler))) {}

HttpServer::~HttpServer() = default;

void HttpServer::start() { impl_->start(); }
int HttpServer::port() const { return impl_->port(); }
bool HttpServer::drain(std::chrono::milliseconds limit) { return impl_->drain(limit); }
void HttpServer::stop() { impl_->stop(); }
HttpStatus HttpServer::status() const { return impl_->status(); }

}  // namespace optiq::server::http
