#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "optiq/convert/inspect.h"
#include "optiq/convert/page/bits_map.h"
#include "optiq/convert/page/html.h"
#include "optiq/convert/page/size_kl_chart.h"

namespace optiq::convert {
namespace {

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
    "summary{cursor:pointer;font-weight:600;font-size:1.2em;margin:1.2em 0 .5em}"
    ".wide{overflow-x:auto}.map{width:auto}.map th{position:static;border:0}"
    ".map th,.map td{padding:1px;min-width:18px;text-align:center;font-size:11px}"
    ".map td.name{text-align:left;padding-right:8px}"
    ".pale{color:#202124}.deep{color:#fff}"
    ".facts{width:auto}.facts td{padding:1px 16px 1px 0}"
    ".chart{max-width:100%;height:auto}.chart .grid{stroke:#8884;stroke-width:1}"
    ".chart .tick{font-size:12px;fill:#80868b}.chart .label{font-size:13px;"
    "font-weight:600;fill:#d98b2b}.mid{text-anchor:middle}.end{text-anchor:end}"
    "path.uniform,path.mix{fill:none;stroke-width:2}"
    "path.uniform{stroke:#9aa0a6;stroke-dasharray:4 4}path.mix{stroke:#3577c8}"
    "circle.uniform{fill:#9aa0a6}circle.mix{fill:#3577c8}circle.chosen{fill:#d98b2b}"
    "@media(prefers-color-scheme:dark){body,th{background:#17181a;color:#e8eaed}}";

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

std::string fact(const std::string& name, const std::string& value) {
  return fmt::format("<tr><td>{}</td><td>{}</td></tr>\n", escaped(name),
                     escaped(value));
}

// The uniform width that is nearest in size among those not smaller: what the mix is
// fairly compared with.
const CurvePoint* peer_of(const std::vector<CurvePoint>& curve, std::int64_t bytes) {
  const CurvePoint* peer = nullptr;
  for (const CurvePoint& point : curve)
    if (point.series == CurvePoint::Series::kUniform &&
        static_cast<double>(point.bytes) >= 0.995 * static_cast<double>(bytes) &&
        (!peer || point.bytes < peer->bytes))
      peer = &point;
  return peer;
}

std::string facts(const Inspection& inspection) {
  std::string rows =
      fact("size", fmt::format("{:.1f} MB, {:.3f} bits per weight on disk",
                               static_cast<double>(inspection.bytes) / 1e6,
                               inspection.bpw_disk));
  rows +=
      fact("quantized matrices", fmt::format("{:.3f} bits on average", inspection.bpw));
  const Decision& decision = inspection.decision;
  if (!decision.base_model.empty()) rows += fact("made from", decision.base_model);
  if (!decision.allocation.empty()) rows += fact("widths", decision.allocation);
  if (decision.kl_mean)
    rows += fact("divergence on held-out text",
                 fmt::format("mean KL {:.5f}, p99 {:.4f} nats per token",
                             *decision.kl_mean, decision.kl_p99.value_or(0)));
  const CurvePoint* peer = peer_of(decision.curve, inspection.bytes);
  if (peer && decision.kl_mean && peer->kl_mean > 0)
    rows += fact(fmt::format("of {}", peer->label),
                 fmt::format("{:.0f} % of its divergence, {:.0f} % of its bytes",
                             100 * *decision.kl_mean / peer->kl_mean,
                             100 * static_cast<double>(inspection.bytes) /
                                 static_cast<double>(peer->bytes)));
  return "<table class=facts>" + rows + "</table>\n";
}

std::string curve_section(const Decision& decision) {
  const std::string chart = size_kl_chart(decision.curve);
  if (chart.empty()) return "";
  return "<h2>Size against divergence</h2>" + chart +
         "<p>KL(the unquantized model || quantized) on held-out text. Grey: one width "
         "for all, rounded as MLX does. Blue: mixes of optiq at the sizes of those. "
         "Orange: what was written.</p>";
}

std::string weights_section(const Inspection& inspection) {
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
  return "<h2 id=weights>Weights</h2><p>Bits of each matrix, a column a layer.</p>" +
         bits_map(inspection.layers) +
         "<details open><summary>Sensitivity of each matrix</summary>"
         "<p>KL(reference || this matrix alone quantized), in nats per token, at 4 "
         "bits "
         "where that was measured; its bar grows with the square root.</p>"
         "<table><tr><th>matrix<th>bits<th>group<th>bytes<th>sensitivity</tr>\n" +
         rows + "</table></details>";
}

}  // namespace

std::string inspection_page(const Inspection& inspection, const std::string& title) {
  return fmt::format(
      "<!doctype html><html lang=en><meta charset=utf-8>"
      "<meta name=viewport content='width=device-width,initial-scale=1'>"
      "<title>{0}</title><style>{1}</style><h1>{0}</h1>\n{2}{3}{4}{5}</html>\n",
      escaped(title), kStyle, facts(inspection), curve_section(inspection.decision),
      weights_section(inspection), cache_section(inspection.caches));
}

}  // namespace optiq::convert
