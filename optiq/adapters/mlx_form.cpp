#include "optiq/adapters/mlx_form.h"

#include "optiq/checkpoint/fields.h"
#include "optiq/checkpoint/json_file.h"

namespace optiq::adapters {

MlxSettings read_mlx_settings(const std::filesystem::path& config_file) {
  const nlohmann::json config = checkpoint::read_json_object(config_file);
  const checkpoint::Fields fields(config, config_file);
  const std::string type = fields.text_or("fine_tune_type", "lora");
  if (type != "lora" && type != "dora")
    fields.fail("fine_tune_type", "lora or dora", "\"" + type + "\"");
  const auto parameters = fields.object("lora_parameters");
  if (!parameters) fields.fail("lora_parameters", "an object");
  MlxSettings settings;
  settings.dora = type == "dora";
  if (parameters->has("scale")) {
    settings.scale = static_cast<float>(parameters->number("scale", -1e6, 1e6));
  } else {
    const double alpha = parameters->number("alpha", -1e6, 1e6);
    settings.scale = static_cast<float>(
        alpha / static_cast<double>(parameters->integer("rank", 1, 1 << 16)));
  }
  return settings;
}

}  // namespace optiq::adapters
