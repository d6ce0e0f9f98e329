#include "optiq/convert/inspect.h"

#include <filesystem>
#include <memory>
#include <optional>

#include "command.h"
#include "optiq/base/file.h"
#include "optiq/base/format.h"
#include "optiq/convert/curve.h"
#include "optiq/generate/model_location.h"

namespace optiq::app {
namespace {

struct Options {
  std::string directory;
  std::string html;
  std::string kv_config;
};

void run_inspect(const Options& options, Context& context) {
  const convert::Inspection inspection =
      convert::inspect(find_model(options.directory),
                       options.kv_config.empty()
                           ? std::nullopt
                           : std::optional<std::filesystem::path>(options.kv_config));
  Table table({"layer", ">bits", ">group", "mode", ">bytes", ">sensitivity"});
  nlohmann::ordered_json layers = nlohmann::ordered_json::array();
  for (const auto& layer : inspection.layers) {
    table.add_row({layer.name, layer.spec ? std::to_string(layer.spec->bits) : "float",
                   layer.spec ? std::to_string(layer.spec->group_size) : "",
                   layer.spec ? name(layer.spec->mode) : "",
                   std::to_string(layer.bytes),
                   layer.sensitivity ? fmt::format("{:.3e}", *layer.sensitivity) : ""});
    nlohmann::ordered_json row = {{"name", layer.name}};
    row["bits"] = layer.spec ? nlohmann::ordered_json(layer.spec->bits) : nullptr;
    row["group_size"] =
        layer.spec ? nlohmann::ordered_json(layer.spec->group_size) : nullptr;
    row["mode"] = layer.spec ? nlohmann::ordered_json(name(layer.spec->mode)) : nullptr;
    row["params"] = layer.params;
    row["bytes"] = layer.bytes;
    row["sensitivity"] =
        layer.sensitivity ? nlohmann::ordered_json(*layer.sensitivity) : nullptr;
    layers.push_back(std::move(row));
  }
  if (!options.html.empty())
    write_file_atomic(options.html,
                      convert::inspection_page(inspection, options.directory));
  context.out.write(table.text());
  context.out.print(
      "{}; {:.3f} bits per weight on disk, {:.3f} bits on average over "
      "the quantized matrices\n",
      format_bytes(static_cast<std::uint64_t>(inspection.bytes)), inspection.bpw_disk,
      inspection.bpw);
  if (!options.html.empty()) context.out.print("{}\n", options.html);
  nlohmann::ordered_json caches = nlohmann::ordered_json::array();
  if (!inspection.caches.empty()) {
    Table cached({">layer", "keys", "values", "sensitivity"});
    for (const auto& cache : inspection.caches) {
      const auto& [k, v] = cache.entry.formats;
      std::string sensitivity;
      nlohmann::ordered_json by_bits = nlohmann::ordered_json::object();
      for (const auto& [bits, kl] : cache.sensitivities) {
        sensitivity +=
            fmt::format("{}{} bits {:.3e}", sensitivity.empty() ? "" : ", ", bits, kl);
        by_bits[std::to_string(bits)] = kl;
      }
      cached.add_row({std::to_string(cache.entry.layer_idx), describe(k), describe(v),
                      sensitivity});
      caches.push_back({{"layer_idx", cache.entry.layer_idx},
                        {"k", describe(k)},
                        {"v", describe(v)},
                        {"sensitivities", by_bits}});
    }
    context.out.print("\n{}", cached.text());
  }
  context.out.summary({{"layers", layers},
                       {"kv_cache", caches},
                       {"curve", convert::to_json(inspection.decision.curve)},
                       {"bytes", inspection.bytes},
                       {"params", inspection.params},
                       {"bpw", inspection.bpw},
                       {"bpw_disk", inspection.bpw_disk}});
}

}  // namespace

Run add_inspect(CLI::App& app) {
  auto options = std::make_shared<Options>();
  app.add_option("DIR", options->directory, "A converted model")->required();
  app.add_option("--html", options->html, "Also write a page to look at")
      ->type_name("FILE");
  app.add_option("--kv-config", options->kv_config,
                 "A kv_config.json to show too (default: DIR's, or DIR/optiq's)")
      ->type_name("FILE");
  return [options](Context& context) { run_inspect(*options, context); };
}

}  // namespace optiq::app
