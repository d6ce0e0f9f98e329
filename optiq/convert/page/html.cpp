#include "optiq/convert/page/html.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace optiq::convert {

std::string escaped(std::string_view text) {
  std::string out;
  for (char c : text) switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  return out;
}

const char* colour_of(int bits) {
  switch (bits) {
    case 2:
      return "#dbe9fb";
    case 3:
      return "#b3d1f6";
    case 4:
      return "#86b6ef";
    case 5:
      return "#5a97e0";
    case 6:
      return "#3577c8";
    case 8:
      return "#174e96";
    default:
      return "#9aa0a6";
  }
}

std::string bits_cell(int bits, const std::string& text) {
  return fmt::format(
      "<td><span class=bar style='width:{}px;background:{}'></span> {}</td>", 10 * bits,
      colour_of(bits), text);
}

std::string sensitivity_cell(double nats, double largest) {
  return fmt::format(
      "<td><span class='bar s' style='width:{:.0f}px'></span> {:.2e}</td>",
      largest > 0 ? 160 * std::sqrt(std::max(0.0, nats) / largest) : 0, nats);
}

}  // namespace optiq::convert
