#include "optiq/kernels/cuda_copy.h"

#include "optiq/kernels/cuda_device.cuh"

namespace optiq::kernels::cuda {
namespace {

struct Args {
  Strided from;
  void* to;
  std::int64_t n;
};

template <class Item>
__global__ void copy(const __grid_constant__ Args a) {
  wait_for_inputs();
  const std::int64_t i =
      static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= a.n) return;
  std::int64_t rest = i, at = 0;
  for (int axis = a.from.n_axes - 1; axis >= 0; --axis) {
    at += rest % a.from.shape[axis] * a.from.strides[axis];
    rest /= a.from.shape[axis];
  }
  static_cast<Item*>(a.to)[i] = static_cast<const Item*>(a.from.data)[at];
}

const void* kernel_for(int item_bytes) {
  switch (item_bytes) {
    case 1:
      return reinterpret_cast<const void*>(&copy<std::uint8_t>);
    case 2:
      return reinterpret_cast<const void*>(&copy<std::uint16_t>);
    case 4:
      return reinterpret_cast<const void*>(&copy<std::uint32_t>);
    default:
      return reinterpret_cast<const void*>(&copy<std::uint64_t>);
  }
}

}  // namespace

void copy_to_rows(const Strided& from, void* to, const Launcher& launch) {
  Args args{from, to, 1};
  for (int axis = 0; axis < from.n_axes; ++axis) args.n *= from.shape[axis];
  if (args.n == 0) return;
  void* arguments[] = {&args};
  launch(kernel_for(from.item_bytes),
         {static_cast<unsigned>((args.n + 255) / 256), 1, 1, 256}, arguments);
}

}  // namespace optiq::kernels::cuda
