// What the routes of both APIs share.
#pragma once
#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "optiq/server/chat/chat_service.h"
#include "optiq/server/http/http.h"

namespace optiq::server {

/// What a request gets where it does not say.
struct ApiDefaults {
  kernels::SamplingOptions sampling;
  int max_tokens = 32768;
};

/// The table of names that `model` may have. Names are only looked up, never joined to
/// a path.
class ModelNames {
 public:
  virtual ~ModelNames() = default;

  /// The model of this name or alias; null if there is none. An empty name is the
  /// default model.
  virtual const ChatService* find(const std::string& name) const = 0;

  /// Names for /v1/models, the model's own first, adapters last.
  struct Entry {
    std::string name;
    std::int64_t created_s;
    int context_length;
    std::string parent{};  // of an adapter: its base
  };
  virtual std::vector<Entry> list() const = 0;
};

/// An answer on its way, which the server may have to cut short.
class Reply {
 public:
  virtual ~Reply() = default;

  /// Ends it with an error that says so.
  virtual void cut() = 0;
};

/// What a route is given. Lives as long as the server.
struct ApiContext {
  const ModelNames* models;
  ApiDefaults defaults;
  std::chrono::milliseconds keep_alive{10'000};  // of a silent stream

  /// Calls `tick` every `keep_alive` on some thread until it returns false.
  std::function<void(std::function<bool()> tick)> every_keep_alive;

  /// Remembers a reply for as long as it lives.
  std::function<void(std::weak_ptr<Reply>)> remember;

  /// Adds to a histogram of /metrics.
  std::function<void(const char* histogram, double seconds)> observe;
};

/// A route: answers the exchange, now or later. It may throw ApiError, and what
/// ChatService throws, as long as it has answered nothing; the caller writes the error.
using Route = std::function<void(const ApiContext&, std::shared_ptr<http::Exchange>)>;

}  // namespace optiq::server
