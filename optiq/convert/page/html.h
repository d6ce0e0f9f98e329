// Small parts that the sections of a page share.
#pragma once
#include <string>
#include <string_view>

namespace optiq::convert {

/// Text as it may stand between tags and in attributes.
std::string escaped(std::string_view text);

/// From pale to deep blue by width; what is not quantized is grey.
const char* colour_of(int bits);

/// A table cell with a bar as long as the width, and `text` after it.
std::string bits_cell(int bits, const std::string& text);

/// A table cell with a bar that grows with the square root of a sensitivity, which
/// keeps small ones visible, and the number in nats.
std::string sensitivity_cell(double nats, double largest);

}  // namespace optiq::convert
