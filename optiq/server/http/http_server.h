// Listens, reads requests within limits, and hands them to a handler.
#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "optiq/server/http/http.h"

namespace optiq::server::http {

struct HttpOptions {
  std::string host = "127.0.0.1";  // a name or an address; [::1] too
  int port = 8080;                 // 0: any free one
  int io_threads = 1;
  int handler_threads = 4;
  std::size_t max_header_bytes = 32 << 10;  // else 431
  std::size_t max_target_bytes = 8 << 10;   // else 414
  std::size_t max_body_bytes = 32 << 20;    // else 413, before it is read
  int max_connections = 4096;               // else 503
  std::chrono::milliseconds header_timeout{10'000};
  std::chrono::milliseconds body_timeout{60'000};
  std::chrono::milliseconds idle_timeout{75'000};  // of a kept connection
  std::chrono::milliseconds slow_reader_timeout{60'000};
  std::size_t write_buffer_bytes = 1 << 20;        // of one stream
  std::filesystem::path tls_certificate, tls_key;  // PEM; empty: no TLS

  /// The body of an answer that no handler wrote (400, 408, 413, 414, 431, 500, 503):
  /// the error envelope depends on the path.
  std::function<Response(int status, const std::string& message,
                         const std::string& path)>
      error_response;
};

struct HttpStatus {
  int connections = 0;
  int open_exchanges = 0;
  std::uint64_t accepted = 0;
  std::uint64_t bad_requests = 0;  // refused before any handler saw them
};

/// Threads   any.
class HttpServer {
 public:
  /// Binds and listens; requests wait until start().
  ///
  /// Throws    ResourceError naming address and port and the reason
  HttpServer(HttpOptions options, Handler handler);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  void start();
  int port() const;

  /// Answers the requests that are open, for so long, then cuts them; takes no new
  /// connections, and closes idle ones at once. Returns true if none was cut.
  bool drain(std::chrono::milliseconds limit);

  /// Cuts everything and waits for the threads. The destructor does it too.
  void stop();

  HttpStatus status() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace optiq::server::http
