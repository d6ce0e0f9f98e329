// Writes the converted model as a directory that mlx-lm loads.
#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>

#include "optiq/base/file.h"
#include "optiq/checkpoint/checkpoint.h"
#include "optiq/convert/encoder.h"
#include "optiq/convert/plan.h"
#include "optiq/quantize/encoded_tensor.h"

namespace optiq::convert {

/// Bytes of all weight files that the plan gives, headers counted.
std::int64_t planned_bytes(const checkpoint::Checkpoint& source, const Plan& plan);

/// What goes into the folder optiq/ beside the weights.
struct Sidecars {
  nlohmann::json metadata;
  nlohmann::json sensitivity;  // null: none
};

/// Writes weights, index, config.json, tokenizer files and sidecars to `directory`,
/// reads the weights back to see that each matrix has the width that the config claims,
/// and commits.
///
/// Returns   bytes of all weight files
/// Throws    ResourceError; std::logic_error if what was read back differs
/// Cost      one matrix at a time is held
std::int64_t write_model(const checkpoint::Checkpoint& source, Encoder& encoder,
                         const Plan& plan, quantize::Search search,
                         const Sidecars& sidecars, AtomicDirectory& directory);

}  // namespace optiq::convert
