#include "optiq/checkpoint/quote.h"

#include <fmt/format.h>

namespace optiq::checkpoint {

std::string quote(std::string_view text) {
  constexpr std::size_t kLimit = 120;
  std::string quoted = "'";
  for (const unsigned char c : text.substr(0, kLimit)) {
    if (c >= 0x20 && c < 0x7F)
      quoted += static_cast<char>(c);
    else
      quoted += fmt::format("\\x{:02x}", c);
  }
  if (text.size() > kLimit) quoted += "...";
  return quoted + "'";
}

}  // namespace optiq::checkpoint
