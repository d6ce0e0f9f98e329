// `optiq lora export`: an adapter for others, or a model with it built in.
#include <filesystem>

#include "command.h"
#include "optiq/adapters/load_adapter.h"
#include "optiq/adapters/write_adapter.h"
#include "optiq/base/file.h"
#include "optiq/base/format.h"
#include "optiq/convert/fuse_adapter.h"
#include "optiq/generate/loaded_model.h"
#include "optiq/generate/model_location.h"
#include "request_options.h"

namespace optiq::app {
namespace {

struct Options {
  std::string model;
  std::string adapter;
  std::filesystem::path output;
  bool fuse = false;
  bool to_float = false;
};

void lora_export(const Options& options, Context& context) {
  if (options.to_float && !options.fuse)
    throw UsageError("--float belongs to --fuse: adapters are floats as they are");
  AtomicDirectory directory(options.output,
                            options.fuse ? "config.json" : "adapter_config.json");
  const LoadedModel model = load(options.model, {.text = false});
  const auto adapter =
      adapters::load_adapter(find_adapter(options.adapter), *model.model);
  nlohmann::ordered_json summary = {{"output", options.output.string()},
                                    {"fused", options.fuse}};
  if (options.fuse) {
    const auto bytes =
        convert::fuse_adapter(model.directory, *model.model, *adapter,
                              {.requantize = !options.to_float}, directory);
    context.out.print("{}: {}, {} linear layers changed\n", options.output.string(),
                      format_bytes(static_cast<std::uint64_t>(bytes)),
                      adapter->modules.size());
    summary["bytes"] = bytes;
  } else {
    if (adapter->is_dora())
      throw std::invalid_argument(
          options.adapter +
          ": DoRA adapters cannot be written in another form; --fuse "
          "builds one into the model");
    adapters::write_adapter(directory.path(), *model.model,
                            {.adapter = adapter.get(),
                             .base_model = options.model,
                             .settings = adapter->settings});
    directory.commit();
    context.out.print("{}: {} linear layers, for mlx-lm and PEFT\n",
                      options.output.string(), adapter->modules.size());
  }
  context.out.summary(summary);
}

}  // namespace

Run add_lora_export(CLI::App& app) {
  auto options = std::make_shared<Options>();
  add_model_argument(app, options->model);
  app.add_option("ADAPTER", options->adapter, "An adapter's directory, or a hub id")
      ->required();
  app.add_option("-o,--output", options->output, "Where it goes")
      ->required()
      ->type_name("DIR");
  app.add_flag("--fuse", options->fuse,
               "Write the model with the adapter built in, in the formats that it has");
  app.add_flag("--float", options->to_float,
               "With --fuse: changed layers as bfloat16 in place of their old format");
  return [options](Context& context) { lora_export(*options, context); };
}

}  // namespace optiq::app
