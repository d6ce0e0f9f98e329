#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "optiq/convert/inspect.h"

namespace optiq::convert {
namespace {

std::string escaped(const std::string& text) {
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
      default:
        out += c;
    }
  return out;
}

// From pale to deep blue by width; float is grey.
const char* colour_of(const std::optional<QuantSpec>& spec) {
  if (!spec) return "#9aa0a6";
  switch (spec->bits) {
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
    default:
      return "#174e96";
  }
}

constexpr const char* kStyle =
    "body{font:14px/1.45 system-ui,sans-serif;margin:2em auto;max-width:62em;"
    "padding:0 1em;color:#202124;background:#fff}"
    "table{border-collapse:collapse;width:100%}"
    "th,td{padding:2px 8px;text-align:left;white-space:nowrap}"
    "th{position:sticky;top:0;background:#fff;border-bottom:1px solid #dadce0}"
    "td.n{text-align:right;font-variant-numeric:tabular-nums}"
    "td.name{font-family:ui-monospace,monospace;font-size:12px}"
    ".bar{height:11px;border-radius:2px;display:inline-block;min-width:1px}"
    ".s{background:#d98b2b}"
    "@media(prefers-color-scheme:dark){body,th{background:#17181a;color:#e8eaed}}";

}  // namespace

std::string inspection_page(const Inspection& inspection, const std::string& title) {
  double largest = 0;
  for (const InspectedLayer& layer : inspection.layers)
    largest = std::max(largest, layer.sensitivity.value_or(0));
  std::string rows;
  for (const InspectedLayer& layer : inspection.layers) {
    const int bits = layer.spec ? layer.spec->bits : 16;
    std::string sensitivity;
    if (layer.sensitivity)
      // The square root keeps small sensitivities visible.
      sensitivity = fmt::format(
          "<span class='bar s' style='width:{:.0f}px'></span> {:.2e}",
          largest > 0 ? 160 * std::sqrt(std::max(0.0, *layer.sensitivity) / largest)
                      : 0,
          *layer.sensitivity);
    rows += fmt::format(
        "<tr><td class=name>{}</td><td><span class=bar style='width:{}px;"
        "background:{}'></span> {}</td><td class=n>{}</td><td class=n>{}</td>"
        "<td>{}</td></tr>\n",
        escaped(layer.name), 10 * bits, colour_of(layer.spec),
        layer.spec ? std::to_string(bits) : std::string("float"),
        layer.spec ? std::to_string(layer.spec->group_size) : std::string(),
        layer.bytes, sensitivity);
  }
  return fmt::format(
      "<!doctype html><html lang=en><meta charset=utf-8>"
      "<meta name=viewport content='width=device-width,initial-scale=1'>"
      "<title>{0}</title><style>{1}</style><h1>{0}</h1>"
      "<p>{2:.1f} MB on disk, {3:.3f} bits per weight on disk, {4:.3f} bits on average "
      "over the quantized matrices.</p>"
      "<p>Sensitivity is KL(reference || this layer alone quantized), in nats per "
      "token; "
      "its bar grows with the square root.</p>"
      "<table><tr><th>layer<th>bits<th>group<th>bytes<th>sensitivity</tr>\n{5}"
      "</table></html>\n",
      escaped(title), kStyle, static_cast<double>(inspection.bytes) / 1e6,
      inspection.bpw_disk, inspection.bpw, rows);
}

}  // namespace optiq::convert
