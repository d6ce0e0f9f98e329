// Memory of a CUDA device for what kernels write, which MLX's own allocator for it is
// not exported for: its public one gives unified memory, whose pages arrive one by one.
#pragma once
#include <cstddef>

#include "mlx/allocator.h"

namespace optiq::kernels::cuda {

namespace mx = mlx::core;

/// Bytes on the current device; what is given back is kept and handed out again, up to
/// a sixteenth of the device's memory. Host code that asks an array for its data() has
/// MLX move it to unified memory, as its own; a device without pools has unified memory
/// alone.
///
/// Threads   any.
/// Throws    ResourceError if there is no memory
mx::allocator::Data device_memory(std::size_t bytes);

}  // namespace optiq::kernels::cuda
