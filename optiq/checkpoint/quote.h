// Text from a file, made fit for a one-line message.
#pragma once
#include <string>
#include <string_view>

namespace optiq::checkpoint {

/// The text in single quotes, control bytes and broken UTF-8 escaped, cut to 120 bytes.
std::string quote(std::string_view text);

}  // namespace optiq::checkpoint
