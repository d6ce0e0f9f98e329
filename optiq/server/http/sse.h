// Server-sent events, as both APIs stream them.
#pragma once
#include <string>
#include <string_view>

namespace optiq::server::http {

/// A frame of data. Requires  no line break in `data` (JSON without indentation has
/// none)
inline std::string sse_data(std::string_view data) {
  return std::string("data: ").append(data).append("\n\n");
}

/// A frame with a name.
inline std::string sse_event(std::string_view name, std::string_view data) {
  return std::string("event: ").append(name).append("\n").append(sse_data(data));
}

/// A frame that clients ignore: keeps the connection open.
inline std::string sse_comment(std::string_view text) {
  return std::string(": ").append(text).append("\n\n");
}

}  // namespace optiq::server::http
