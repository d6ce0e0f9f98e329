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

std::string bits_cell(int bits, const std::string& text) {
  return fmt::format(
      "<td><span class=bar style='width:{}px;background:{}'></span> {}</td>", 10 * bits,
      colour_of(bits), text);
}

// The square root keeps small sensitivities visible.
std::string sensitivity_cell(double value, double largest) {
  return fmt::format(
      "<td><span class='bar s' style='width:{:.0f}px'></span> {:.2e}</td>",
      largest > 0 ? 160 * std::sqrt(std::max(0.0, value) / largest) : 0, value);
}

// A row for each layer's keys and values, or one for both where they share a format and
// were measured together.
std::string cache_section(const std::vector<InspectedCache>& caches) {
  if (caches.empty()) return "";
  struct Row {
    std::string part;
    const KvFormat* format;
    const std::map<int, double>* sensitivities;
  };
  const auto narrowest = [](const std::map<int, double>& s) {
    return s.begin()->second;
  };
  std::vector<std::pair<int, Row>> rows;
  double largest = 0;
  int bits = 0;
  for (const InspectedCache& c : caches) {
    const auto& [k, v] = c.entry.formats;
    const int layer = c.entry.layer_idx;
    if (c.k_sensitivities.empty() && k == v) {
      rows.push_back({layer, {"keys, values", &k, &c.sensitivities}});
    } else {
      rows.push_back({layer, {"keys", &k, &c.k_sensitivities}});
      rows.push_back({layer, {"values", &v, &c.v_sensitivities}});
    }
  }
  for (const auto& [layer, row] : rows)
    if (!row.sensitivities->empty()) {
      largest = std::max(largest, narrowest(*row.sensitivities));
      bits = row.sensitivities->begin()->first;
    }
  std::string text;
  for (const auto& [layer, row] : rows)
    text +=
        fmt::format("<tr><td class=n>{}</td><td>{}</td>{}{}</tr>\n", layer, row.part,
                    bits_cell(row.format->bits, escaped(describe(*row.format))),
                    row.sensitivities->empty()
                        ? "<td></td>"
                        : sensitivity_cell(narrowest(*row.sensitivities), largest));
  return fmt::format(
      "<h2 id=kv>KV cache</h2><p>Sensitivity is KL(float cache || this part of the "
      "layer's cache alone in {} bits), in nats per token.</p>"
      "<table><tr><th>layer<th>part<th>format<th>sensitivity</tr>\n{}</table>",
      bits > 0 ? std::to_string(bits) : std::string("fewer"), text);
}

}  // namespace

std::string inspection_page(const Inspection& inspection, const std::string& title) {
  double largest = 0;
  for (const InspectedLayer& layer : inspection.layers)
    largest = std::max(largest, layer.sensitivity.value_or(0));
  std::string rows;
  for (const InspectedLayer& layer : inspection.layers) {
    const int bits = layer.spec ? layer.spec->bits : 16;
    rows += fmt::format(
        "<tr><td class=name>{}</td>{}<td class=n>{}</td><td class=n>{}</td>{}</tr>\n",
        escaped(layer.name),
        bits_cell(bits, layer.spec ? std::to_string(bits) : std::string("float")),
        layer.spec ? std::to_string(layer.spec->group_size) : std::string(),
        layer.bytes,
        layer.sensitivity ? sensitivity_cell(*layer.sensitivity, largest)
                          : "<td></td>");
  }
  return fmt::format(
      "<!doctype html><html lang=en><meta charset=utf-8>"
      "<meta name=viewport content='width=device-width,initial-scale=1'>"
      "<title>{0}</title><style>{1}</style><h1>{0}</h1>"
      "{6}<p>{2:.1f} MB on disk, {3:.3f} bits per weight on disk, {4:.3f} bits on "
      "average "
      "over the quantized matrices.</p>"
      "<p>Sensitivity is KL(reference || this layer alone quantized), in nats per "
      "token; "
      "its bar grows with the square root.</p>"
      "<table><tr><th>layer<th>bits<th>group<th>bytes<th>sensitivity</tr>\n{5}"
      "</table>{7}</html>\n",
      escaped(title), kStyle, static_cast<double>(inspection.bytes) / 1e6,
      inspection.bpw_disk, inspection.bpw, rows,
      inspection.caches.empty()
          ? ""
          : "<p><a href='#weights'>Weights</a> · <a href='#kv'>KV cache</a></p>"
            "<h2 id=weights>Weights</h2>",
      cache_section(inspection.caches));
}

}  // namespace optiq::convert
