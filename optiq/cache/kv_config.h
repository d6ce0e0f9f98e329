// kv_config.json: which layers' caches have how many bits.
#pragma once
#include <filesystem>
#include <string_view>
#include <vector>

#include "optiq/cache/cache_options.h"

namespace optiq::cache {

/// Reads a list of {"layer_idx", "bits", "group_size"}, each with "k_bits", "v_bits"
/// and "format" where they are given (docs/formats/kv-config.md). Layers that are not
/// listed stay float.
///
/// Throws    CheckpointError naming file and entry. That the layers are a model's is
///           checked where the cache is made.
std::vector<LayerEntry> load_kv_config(const std::filesystem::path& file);

/// The same from its text; `file` is for messages.
std::vector<LayerEntry> parse_kv_config(std::string_view text,
                                        const std::filesystem::path& file);

}  // namespace optiq::cache
