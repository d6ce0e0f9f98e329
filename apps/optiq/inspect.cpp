#include "optiq/convert/inspect.h"

#include <memory>

#include "command.h"
#include "optiq/base/file.h"
#include "optiq/base/format.h"
#include "optiq/generate/model_location.h"

namespace optiq::app {
namespace {

struct Options {
  std::string directory;
  std::string html;
};

void run_inspect(const Options& options, Context& context) {
  const convert::Inspection inspection =
      convert::inspect(find_model(options.directory));
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
  context.out.summary({{"layers", layers},
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
  return [options](Context& context) { run_inspect(*options, context); };
}

}  // namespace optiq::app
