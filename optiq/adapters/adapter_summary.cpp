#include "optiq/adapters/adapter_summary.h"

#include <algorithm>
#include <cctype>
#include <map>

#include "optiq/adapters/adapter_tensors.h"

namespace optiq::adapters {
namespace {

// The number behind "layers.", so that 10 comes after 9.
int layer_of(const std::string& path) {
  const std::size_t at = path.find("layers.");
  int layer = 0;
  if (at != std::string::npos)
    for (std::size_t i = at + 7;
         i < path.size() && std::isdigit(static_cast<unsigned char>(path[i])) &&
         layer < 1'000'000;
         ++i)
      layer = 10 * layer + (path[i] - '0');
  return layer;
}

}  // namespace

AdapterSummary summarize(const std::filesystem::path& directory) {
  const AdapterTensors files = open_adapter(directory);
  AdapterSummary summary;
  summary.dora = files.dora();
  summary.base_model = files.base_model;
  const auto scaling = files.settings.find("rank_scaling");
  summary.rank_scaling = scaling != files.settings.end() && scaling->is_string()
                             ? scaling->get<std::string>()
                             : "constant";
  std::map<int, int> counts;
  for (const auto& [path, layer] : files.layers) {
    const int rank = files.rank(layer);
    summary.modules.push_back({path, rank, double{files.scale(path)} * rank});
    ++counts[rank];
    for (const std::string& name : {layer.a, layer.b, layer.magnitude}) {
      if (name.empty()) continue;
      const auto& info = files.tensors.info(name);
      std::int64_t n = 1;
      for (const std::int64_t d : info.shape) n *= d;
      summary.parameters += n;
      summary.bytes += info.bytes;
    }
  }
  std::ranges::stable_sort(summary.modules, {}, [](const AdapterSummary::Module& m) {
    return layer_of(m.path);
  });
  summary.rank = std::ranges::max_element(counts, {}, [](const auto& c) {
                   return c.second;
                 })->first;
  for (const auto& module : summary.modules)
    if (module.rank == summary.rank) summary.alpha = module.alpha;
  return summary;
}

}  // namespace optiq::adapters
