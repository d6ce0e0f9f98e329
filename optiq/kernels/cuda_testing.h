// What tests of CUDA kernels share: memory of the device, and a launcher.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "optiq/kernels/cuda_launch.h"

namespace optiq::testing {

inline void check_cuda(cudaError_t error, const char* what) {
  if (error != cudaSuccess)
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

/// Values on the device, exactly as many as there are: a sanitizer sees each one too
/// far. Filled with `host`, or with bytes 0xff, which are no numbers.
template <class T>
class DeviceBuffer {
 public:
  DeviceBuffer(const void* host, std::size_t size) : size_(size) {
    if (size == 0) return;
    check_cuda(cudaMalloc(&data_, size * sizeof(T)), "cudaMalloc");
    check_cuda(host ? cudaMemcpy(data_, host, size * sizeof(T), cudaMemcpyHostToDevice)
                    : cudaMemset(data_, 0xff, size * sizeof(T)),
               "filling");
  }
  ~DeviceBuffer() { cudaFree(data_); }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;

  T* data() const { return data_; }
  std::size_t size() const { return size_; }
  std::vector<T> to_host() const {
    std::vector<T> host(size_);
    check_cuda(
        cudaMemcpy(host.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost),
        "kernel");
    return host;
  }

 private:
  T* data_ = nullptr;
  std::size_t size_;
};

inline void launch_now(const void* symbol, const kernels::LaunchShape& s,
                       void** arguments) {
  check_cuda(cudaLaunchKernel(symbol, dim3(s.grid_x, s.grid_y, s.grid_z),
                              dim3(s.block_x), arguments, s.shared_bytes, nullptr),
             "launch");
}

}  // namespace optiq::testing
