#include "optiq/server/router.h"

#include <fmt/format.h>

namespace optiq::server {
namespace {

bool matches(const std::string& pattern, const std::string& path) {
  if (!pattern.ends_with("/*")) return path == pattern;
  const std::size_t stem = pattern.size() - 1;
  return path.size() > stem && path.compare(0, stem, pattern, 0, stem) == 0;
}

}  // namespace

const RouteEntry& Router::find(const http::Request& request) const {
  const std::string method = request.method == "HEAD" ? "GET" : request.method;
  std::string others;
  for (const RouteEntry& route : routes_) {
    if (!matches(route.path, request.path)) continue;
    if (route.method == method) return route;
    others += (others.empty() ? "" : ", ") + route.method;
  }
  if (others.empty())
    throw ApiError(404, fmt::format("there is no {} {}", request.method, request.path));
  throw MethodNotAllowed(
      fmt::format("{} takes {}, found {}", request.path, others, request.method),
      others);
}

}  // namespace optiq::server
