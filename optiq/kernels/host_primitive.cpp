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

#ifdef OPTIQ_CUDA
QueuedWrites::QueuedWrites() { cuda::queue_writes(true); }
QueuedWrites::~QueuedWrites() { cuda::queue_writes(false); }
#else
QueuedWrites::QueuedWrites() = default;
QueuedWrites::~QueuedWrites() = default;
#endif

void read(const mx::array& from, std::size_t first, std::size_t bytes, void* to) {
#ifdef OPTIQ_CUDA
  if (!runs_on_cpu()) return cuda::read(from, first, bytes, to);
#endif
  std::memcpy(to, from.data<char>() + first, bytes);
}

mx::array copy_of(const mx::array& x) {
#ifdef OPTIQ_CUDA
  if (!runs_on_cpu()) return cuda::copy_of(x);
#endif
  return on_host(x);
}

const void* address_of(const mx::array& x) {
#ifdef OPTIQ_CUDA
  if (!runs_on_cpu()) return cuda::address_of(x);
#endif
  return x.data<void>();
}

mx::array beside_kernels(const mx::array& x) { return runs_on_cpu() ? x : copy_of(x); }

mx::array on_host(const mx::array& x) {
  mx::array copy(x.shape(), x.dtype(), nullptr, {});
  copy.set_data(mx::allocator::malloc(x.nbytes()));
  copy.set_status(mx::array::Status::available);
  read(x, 0, x.nbytes(), copy.data<char>());
  return copy;
}

}  // namespace optiq::kernels
