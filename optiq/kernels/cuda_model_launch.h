// Starts kernels of one argument on cuda_model.h.
#pragma once
#include <stdexcept>

#include "optiq/kernels/cuda_launch.h"
#include "optiq/kernels/cuda_model.h"

namespace optiq::cuda_model {

template <class Call>
void launch(const void* symbol, const kernels::LaunchShape& shape, void** arguments) {
  if (shape.shared_bytes > sizeof(Block::shared))
    throw std::logic_error("more shared memory than there is");
  run({shape.grid_x, shape.grid_y, 1}, static_cast<int>(shape.block_x), [&] {
    reinterpret_cast<void (*)(Call)>(const_cast<void*>(symbol))(
        *static_cast<Call*>(arguments[0]));
  });
}

}  // namespace optiq::cuda_model
