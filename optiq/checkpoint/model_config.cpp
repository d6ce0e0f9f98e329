// The config of an opened directory.
#include <filesystem>
#include <system_error>

#include "optiq/checkpoint/checkpoint.h"
#include "optiq/checkpoint/config.h"
#include "optiq/checkpoint/json_file.h"

namespace optiq::checkpoint {

ModelConfig model_config(const Checkpoint& checkpoint) {
  const auto file = checkpoint.directory() / "generation_config.json";
  std::error_code error;
  return parse_model_config(checkpoint.config(),
                            std::filesystem::exists(file, error)
                                ? read_json_object(file)
                                : nlohmann::json::object(),
                            checkpoint.directory() / "config.json");
}

}  // namespace optiq::checkpoint
