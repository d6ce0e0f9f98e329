// How CUDA kernels are started: by whoever runs them, on a stream or into MLX's graph.
#pragma once
#include <cstddef>
#include <functional>

namespace optiq::kernels {

/// A kernel's grid, its blocks, and shared memory in bytes.
struct LaunchShape {
  unsigned grid_x = 1, grid_y = 1, grid_z = 1;
  unsigned block_x = 1;
  std::size_t shared_bytes = 0;
};

/// Starts the kernel of this host symbol with these arguments, one pointer for each.
using Launcher =
    std::function<void(const void* symbol, const LaunchShape& shape, void** arguments)>;

}  // namespace optiq::kernels
