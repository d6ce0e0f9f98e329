// A model with an adapter built into its weights.
#pragma once
#include <cstdint>
#include <filesystem>

#include "optiq/base/file.h"
#include "optiq/models/model.h"

namespace optiq::convert {

struct FuseOptions {
  bool requantize = true;  // false: changed layers of a quantized model become bf16
};

/// Writes a copy of the model in `source` in which each linear layer that the adapter
/// changes is W + scale b^T a, with DoRA its rows times the gain. Dense weights keep
/// their type, quantized ones their format; everything else is copied byte by byte.
///
/// Requires  `model` was loaded from `source`, the adapter for it.
/// Returns   bytes of all weight files
/// Throws    ResourceError; CheckpointError; std::invalid_argument for a format that
///           has no encoder
std::int64_t fuse_adapter(const std::filesystem::path& source, models::Model& model,
                          const models::Adapter& adapter, const FuseOptions& options,
                          AtomicDirectory& directory);

}  // namespace optiq::convert
