// What a call of the CUDA runtime says, as an exception.
#pragma once
#include <cuda_runtime.h>

#include <string>

#include "optiq/base/error.h"

namespace optiq::kernels {

/// Throws    ResourceError that names `what`, unless the call succeeded
inline void check_cuda(cudaError_t error, const char* what) {
  if (error != cudaSuccess)
    throw ResourceError(std::string("CUDA: ") + what + ": " +
                        cudaGetErrorString(error));
}

}  // namespace optiq::kernels
