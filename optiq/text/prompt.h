// A prompt as a chat template rendered it, ready to be encoded.
#pragma once
#include <cstddef>
#include <string>
#include <vector>

namespace optiq::text {

struct Prompt {
  std::string text;
  /// Byte offsets of characters that came from messages and lie in the text of a
  /// control token: no added token may cover one. Ascending; empty unless a message
  /// spells such a token.
  std::vector<std::size_t> literal_at;
};

}  // namespace optiq::text
