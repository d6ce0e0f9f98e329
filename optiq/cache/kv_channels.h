// kv_channels.safetensors: what is done to each channel of keys and values before they
// are coded.
#pragma once
#include <filesystem>

#include "optiq/cache/cache_options.h"

namespace optiq::cache {

/// The name of the file, beside a kv_config.json.
constexpr const char* kKvChannelsFile = "kv_channels.safetensors";

/// Tensors `layers.<i>.k_mean`, `layers.<i>.k_scale` and `layers.<i>.v_scale`, float32
/// [n_kv_heads * head_dim] each, by layer; any may be absent.
///
/// Throws    CheckpointError naming file and tensor: for values that are not finite,
///           and scales outside [2^-20, 2^20]. That the sizes are a model's is checked
///           where the cache is made.
KvChannels load_kv_channels(const std::filesystem::path& file);

/// Throws    ResourceError
void save_kv_channels(const std::filesystem::path& file, const KvChannels& channels);

}  // namespace optiq::cache
