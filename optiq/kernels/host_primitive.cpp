#include "optiq/kernels/host_primitive.h"

#include <cstring>
#include <vector>

#include "optiq/kernels/fused_primitive.h"
#ifdef OPTIQ_CUDA
#include "optiq/kernels/cuda_primitive.h"
#endif

namespace optiq::kernels {

void overwrite(mx::array& x, const void* values) {
#ifdef OPTIQ_CUDA
  if (!runs_on_cpu()) return cuda::write(x, values);
#endif
  std::memcpy(x.data<char>(), values, x.nbytes());
}

void overwrite(mx::array& x, const mx::array& values) {
#ifdef OPTIQ_CUDA
  if (!runs_on_cpu()) return cuda::copy(x, values);
#endif
  std::memcpy(x.data<char>(), values.data<char>(), x.nbytes());
}

mx::array copy_of(const mx::array& x) {
#ifdef OPTIQ_CUDA
  if (!runs_on_cpu()) return cuda::copy_of(x);
#endif
  return on_host(x);
}

mx::array beside_kernels(const mx::array& x) { return runs_on_cpu() ? x : copy_of(x); }

mx::array on_host(const mx::array& x) {
  mx::array copy(x.shape(), x.dtype(), nullptr, {});
  copy.set_data(mx::allocator::malloc(x.nbytes()));
  copy.set_status(mx::array::Status::available);
#ifdef OPTIQ_CUDA
  if (!runs_on_cpu()) {
    cuda::read(x, copy.data<char>());
    return copy;
  }
#endif
  std::memcpy(copy.data<char>(), x.data<char>(), x.nbytes());
  return copy;
}

}  // namespace optiq::kernels
