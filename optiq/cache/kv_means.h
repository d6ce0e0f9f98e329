// kv_means.safetensors: what is taken off keys before they are coded.
#pragma once
#include <filesystem>
#include <map>
#include <vector>

namespace optiq::cache {

/// The name of the file, beside a kv_config.json.
constexpr const char* kKvMeansFile = "kv_means.safetensors";

/// The means by layer that CacheOptions::k_means takes: tensors `layers.<i>.k_mean`,
/// float32 [n_kv_heads * head_dim].
///
/// Throws    CheckpointError naming file and tensor. That the sizes are a model's is
///           checked where the cache is made.
std::map<int, std::vector<float>> load_kv_means(const std::filesystem::path& file);

/// Throws    ResourceError
void save_kv_means(const std::filesystem::path& file,
                   const std::map<int, std::vector<float>>& means);

}  // namespace optiq::cache
