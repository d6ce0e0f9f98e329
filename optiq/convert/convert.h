// The whole conversion: measure, allocate, encode, verify, write.
#pragma once
#include "optiq/convert/options.h"

namespace optiq::convert {

/// Converts a model in float form to a mixed-precision MLX checkpoint. The output
/// appears whole at the end, or not at all; what was measured until an interruption is
/// kept beside it for `resume`.
///
/// Throws    std::invalid_argument for options that cannot be met (the message names
///           the flag), CheckpointError, ResourceError, Interrupted.
Result convert(const Options& options);

}  // namespace optiq::convert
