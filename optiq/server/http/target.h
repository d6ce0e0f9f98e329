// The target of a request: its path, decoded once and safely, and its query.
#pragma once
#include <optional>
#include <string>
#include <string_view>

namespace optiq::server::http {

struct Target {
  std::string path;   // "/v1/models"
  std::string query;  // as it came
};

/// "/a%20b?c" or "http://host/a%20b?c". None if it is neither, or if the path's escapes
/// are not UTF-8 or spell a NUL, a control character or '\\'. An escaped '/' is one:
/// SDKs escape that of hub ids. Paths are looked up in tables and never touch files.
std::optional<Target> parse_target(std::string_view target);

}  // namespace optiq::server::http
