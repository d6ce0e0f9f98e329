// The BLAS of the system: OpenBLAS, or Accelerate on macOS.
#pragma once
#if defined(__APPLE__)
#include <Accelerate/Accelerate.h>
#else
#include <cblas.h>
#endif
