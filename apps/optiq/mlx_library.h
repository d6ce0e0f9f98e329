// Which of MLX's two libraries a build for NVIDIA GPUs runs on.
#pragma once

namespace optiq::app {

/// Starts the program again on MLX's library for CUDA, where there is a device; returns
/// where there is none, or where it runs on that library already. The one for CPUs is
/// what the loader finds by itself: that for CUDA cannot be loaded without a driver,
/// nor have memory, and both have the same interface.
void choose_mlx_library(char** argv);

}  // namespace optiq::app
