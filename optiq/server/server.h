// Serves a model over HTTP, with OpenAI's and Anthropic's API at once.
#pragma once
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "optiq/server/api.h"
#include "optiq/server/chat/served_model.h"
#include "optiq/server/http/http_server.h"

namespace optiq::server {

/// Another name for the model. A '*' stands for any text: "claude-*".
struct Alias {
  std::string pattern;
  std::string model;  // a name that is served
};

struct ServerOptions {
  http::HttpOptions http;  // host, port, limits, TLS
  ApiDefaults defaults;
  bool anthropic = true;              // its routes too
  bool adapter_admin = false;         // adapters may be mounted and unmounted over HTTP
  std::vector<std::string> api_keys;  // any of them opens; none: no key is needed
  std::vector<std::string> hosts;     // further values of Host that are taken
  std::vector<std::string> origins;   // web pages that may ask
  std::vector<Alias> aliases;
  std::chrono::milliseconds keep_alive{10'000};  // of a silent stream
  std::chrono::seconds stuck_after{120};         // without a step: /health says so
  std::string model_page = "null";  // JSON for the page: the layers and their bits
};

/// Listens on a thread of its own from start() on; any number of servers may live in a
/// process.
///
/// Threads   any.
class Server {
 public:
  /// Binds the port; connections wait until start().
  ///
  /// Throws    std::invalid_argument for an alias of a model that there is not, or keys
  ///           of no length; ResourceError if the port cannot be had
  Server(ServedModel model, ServerOptions options);

  /// Stops.
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  void start();

  /// The port that it listens on: the one found, where 0 was asked for.
  int port() const;

  /// From now on new requests are told to go elsewhere (503), and /health says so.
  /// Returns when the open ones are answered, at most after `limit`: what is open then
  /// ends with an error.
  ///
  /// Returns   true if nothing was cut short
  bool drain(std::chrono::milliseconds limit);

  /// Cuts everything and waits for the threads.
  void stop();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace optiq::server
