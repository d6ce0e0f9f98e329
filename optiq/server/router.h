// Which function answers which path.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "optiq/server/api_error.h"
#include "optiq/server/http/http.h"

namespace optiq::server {

/// 405: the path is there, but takes other methods.
class MethodNotAllowed : public ApiError {
 public:
  MethodNotAllowed(const std::string& message, std::string allowed)
      : ApiError(405, message), allowed(std::move(allowed)) {}

  std::string allowed;  // "GET, POST"
};

using RouteFunction = std::function<void(std::shared_ptr<http::Exchange>)>;

/// A row of the table. A path that ends in "/*" takes every longer path too.
struct RouteEntry {
  std::string method;  // "GET" answers HEAD too
  std::string path;
  RouteFunction answer;
};

class Router {
 public:
  explicit Router(std::vector<RouteEntry> routes) : routes_(std::move(routes)) {}

  /// The row for a request.
  ///
  /// Throws    ApiError 404; MethodNotAllowed
  const RouteEntry& find(const http::Request& request) const;

 private:
  std::vector<RouteEntry> routes_;
};

}  // namespace optiq::server
