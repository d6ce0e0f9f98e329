#include "optiq/server/http/target.h"

namespace optiq::server::http {
namespace {

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

std::optional<std::string> decode(std::string_view path) {
  std::string decoded;
  for (std::size_t i = 0; i < path.size(); ++i) {
    if (path[i] != '%') {
      decoded += path[i];
      continue;
    }
    if (i + 2 >= path.size()) return std::nullopt;
    const int high = hex_digit(path[i + 1]), low = hex_digit(path[i + 2]);
    if (high < 0 || low < 0) return std::nullopt;
    const char c = static_cast<char>(16 * high + low);
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f || c == '\\')
      return std::nullopt;
    decoded += c;
    i += 2;
  }
  return decoded;
}

bool is_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const auto c = static_cast<unsigned char>(text[i]);
    const int length = c < 0x80         ? 1
                       : c >> 5 == 0x6  ? 2
                       : c >> 4 == 0xe  ? 3
                       : c >> 3 == 0x1e ? 4
                                        : 0;
    if (length == 0 || i + static_cast<std::size_t>(length) > text.size()) return false;
    for (int k = 1; k < length; ++k)
      if ((static_cast<unsigned char>(text[i + static_cast<std::size_t>(k)]) & 0xc0) !=
          0x80)
        return false;
    i += static_cast<std::size_t>(length);
  }
  return true;
}

}  // namespace

std::optional<Target> parse_target(std::string_view target) {
  for (const std::string_view scheme : {"http://", "https://"})
    if (target.starts_with(scheme)) {
      const auto slash = target.find('/', scheme.size());
      target = slash == std::string_view::npos ? "/" : target.substr(slash);
    }
  if (target.empty() || target.front() != '/') return std::nullopt;
  target = target.substr(0, target.find('#'));
  const auto question = target.find('?');
  const auto path = decode(target.substr(0, question));
  if (!path || !is_utf8(*path)) return std::nullopt;
  return Target{*path, question == std::string_view::npos
                           ? ""
                           : std::string(target.substr(question + 1))};
}

}  // namespace optiq::server::http
