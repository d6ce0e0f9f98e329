// libFuzzer: any text as a config.json.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "optiq/base/error.h"
#include "optiq/checkpoint/config.h"
#include "optiq/checkpoint/json_file.h"
#include "optiq/checkpoint/quantization_config.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace optiq;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  nlohmann::json json;
  try {
    json = checkpoint::parse_json_object(text, "fuzz");
  } catch (const CheckpointError&) {
    return 0;
  }
  try {
    checkpoint::parse_quantization(json, "fuzz");
  } catch (const CheckpointError&) {
  }
  try {
    const auto config = checkpoint::parse_model_config(json, json, "fuzz");
    if (config.layer_types.size() !=
            static_cast<std::size_t>(config.num_hidden_layers) ||
        config.n_heads % config.n_kv_heads != 0 || config.rope.rotary_dim % 2 != 0)
      std::abort();
  } catch (const CheckpointError&) {
  }
  return 0;
}
