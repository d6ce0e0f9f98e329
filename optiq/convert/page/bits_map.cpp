#include "optiq/convert/page/bits_map.h"

#include <fmt/format.h>

#include <cstdlib>
#include <map>
#include <set>
#include <vector>

#include "optiq/convert/page/html.h"

namespace optiq::convert {
namespace {

constexpr int kOutside = -1;  // of all layers: embedding, head

struct Place {
  int layer;
  std::string projection;
};

// model.layers.3.mlp.up_proj -> 3, mlp.up_proj
Place place_of(const std::string& path) {
  const auto at = path.find("layers.");
  if (at == std::string::npos) return {kOutside, path.substr(path.rfind('.') + 1)};
  const auto dot = path.find('.', at + 7);
  return {std::atoi(path.c_str() + at + 7),
          dot == std::string::npos ? "" : path.substr(dot + 1)};
}

int bits_of(const InspectedLayer& layer) { return layer.spec ? layer.spec->bits : 16; }

std::string cell(const InspectedLayer* layer) {
  if (!layer) return "<td></td>";
  const int bits = bits_of(*layer);
  const std::string width = layer->spec ? fmt::format("{} bits", bits) : "float";
  std::string title = fmt::format("{}: {}", layer->name, width);
  if (layer->sensitivity) title += fmt::format(", {:.2e} nats", *layer->sensitivity);
  return fmt::format("<td class={} style='background:{}' title='{}'>{}</td>",
                     bits >= 5 ? "deep" : "pale", colour_of(bits), escaped(title),
                     layer->spec ? std::to_string(bits) : "f");
}

}  // namespace

std::string bits_map(std::span<const InspectedLayer> layers) {
  std::vector<std::string> projections;  // in the order data walks
  std::map<std::string, std::map<int, const InspectedLayer*>> cells;
  std::set<int> columns;
  for (const InspectedLayer& layer : layers) {
    const Place place = place_of(layer.name);
    if (!cells.contains(place.projection)) projections.push_back(place.projection);
    cells[place.projection][place.layer] = &layer;
    if (place.layer != kOutside) columns.insert(place.layer);
  }
  std::string out = "<div class=wide><table class=map><tr><th>";
  for (int column : columns) out += fmt::format("<th>{}", column);
  out += "</tr>\n";
  for (const std::string& projection : projections) {
    const auto& row = cells[projection];
    out += fmt::format("<tr><td class=name>{}</td>", escaped(projection));
    if (row.contains(kOutside)) {
      out += cell(row.at(kOutside));
    } else {
      for (int column : columns)
        out += cell(row.contains(column) ? row.at(column) : nullptr);
    }
    out += "</tr>\n";
  }
  return out + "</table></div>";
}

}  // namespace optiq::convert
