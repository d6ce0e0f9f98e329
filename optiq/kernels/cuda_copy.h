// Copies of strided arrays on a CUDA device.
#pragma once
#include <cstdint>

#include "optiq/kernels/cuda_launch.h"

namespace optiq::kernels::cuda {

inline constexpr int kMostAxes = 6;

/// An array whose rows need not lie one after another; strides in items.
struct Strided {
  const void* data;
  int n_axes;
  std::int64_t shape[kMostAxes], strides[kMostAxes];
  int item_bytes;  // 1, 2, 4 or 8
};

/// Its items one after another.
void copy_to_rows(const Strided& from, void* to, const Launcher& launch);

}  // namespace optiq::kernels::cuda
