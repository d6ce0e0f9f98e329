#include "optiq/checkpoint/names.h"

#include <fmt/format.h>

#include "optiq/base/error.h"
#include "optiq/checkpoint/checkpoint.h"

namespace optiq::checkpoint {
namespace {

constexpr const char* kModelPrefixes[] = {"model.", "language_model.model.",
                                          "model.language_model.", ""};
constexpr const char* kHeads[] = {"lm_head", "language_model.lm_head", "model.lm_head"};

struct RoleRow {
  const char* part;  // a whole component of the name
  TensorRole role;
};
constexpr RoleRow kRoles[] = {
    {"visual", TensorRole::kVision},
    {"vision_tower", TensorRole::kVision},
    {"vision_model", TensorRole::kVision},
    {"multi_modal_projector", TensorRole::kVision},
    {"vision_embedder", TensorRole::kVision},
    {"embed_vision", TensorRole::kVision},
    {"audio_tower", TensorRole::kAudio},
    {"embed_audio", TensorRole::kAudio},
    {"mtp", TensorRole::kMtp},
    {"rotary_emb", TensorRole::kBuffer},
};

}  // namespace

TextNames find_text_names(const Checkpoint& checkpoint) {
  TextNames names;
  bool found = false;
  for (const char* prefix : kModelPrefixes) {
    if (!checkpoint.contains(prefix + std::string("embed_tokens.weight"))) continue;
    if (found)
      throw CheckpointError(
          fmt::format("{}: expected one text model, found '{}embed_tokens.weight' and "
                      "'{}embed_tokens.weight'",
                      checkpoint.directory().string(), names.model, prefix));
    found = true;
    names.model = prefix;
  }
  if (!found)
    throw CheckpointError(
        fmt::format("{}: tensor 'model.embed_tokens.weight' is missing (also under "
                    "'language_model.model.' and 'model.language_model.')",
                    checkpoint.directory().string()));
  for (const char* head : kHeads)
    if (names.lm_head.empty() && checkpoint.contains(head + std::string(".weight")))
      names.lm_head = head;
  return names;
}

TensorRole role_of(std::string_view name) {
  while (!name.empty()) {
    const std::size_t dot = name.find('.');
    const std::string_view part = name.substr(0, dot);
    for (const RoleRow& row : kRoles)
      if (part == row.part) return row.role;
    name = dot == std::string_view::npos ? "" : name.substr(dot + 1);
  }
  return TensorRole::kText;
}

bool is_mlx_form(const Checkpoint& checkpoint) {
  bool has_conv1d = false;
  for (const std::string& name : checkpoint.names()) {
    if (name.find("conv1d.weight") == std::string::npos) continue;
    const TensorInfo& tensor = checkpoint.info(name);
    if (tensor.shape.size() != 3)
      throw CheckpointError(fmt::format(
          "{}: tensor '{}': expected [channels, width, 1] or [channels, 1, width], "
          "found {}",
          tensor.file.string(), name, describe(tensor.dtype, tensor.shape)));
    if (tensor.shape.back() != 1) return false;
    has_conv1d = true;
  }
  return has_conv1d || checkpoint.format() == "mlx";
}

}  // namespace optiq::checkpoint
