// The BLAS of the system: OpenBLAS, or Accelerate on macOS.
#pragma once
#if defined(__APPLE__)
#include <Accelerate/Accelerate.h>
#else
#include <cblas.h>
#endif

namespace optiq::quantize {

/// While it lives BLAS computes each product on the thread that asks for it, for
/// callers on the threads of our own pool: OpenBLAS's threads keep spinning for some
/// time after a product, in the way of whoever works next.
class SingleThreadedBlas {
 public:
#if defined(__APPLE__)
  SingleThreadedBlas() {}
#else
  SingleThreadedBlas() : before_(openblas_get_num_threads()) {
    openblas_set_num_threads(1);
  }
  ~SingleThreadedBlas() { openblas_set_num_threads(before_); }
#endif
  SingleThreadedBlas(const SingleThreadedBlas&) = delete;
  SingleThreadedBlas& operator=(const SingleThreadedBlas&) = delete;

 private:
  [[maybe_unused]] int before_ = 1;
};

}  // namespace optiq::quantize
