// One head's norm and rotation by one warp.
#pragma once
#include <cstdint>

#include "optiq/kernels/rope/rope.h"

namespace optiq::kernels::cuda {

/// rope.h's for the head [dim] of a row that lies in shared memory, in place; `norm`:
/// of its kind of heads. Angles are made anew for each head, which costs less than to
/// wait for another block's.
__device__ inline void turn_head(const RopeArgs& a, const float* norm, std::int64_t row,
                                 int dim, float* x, int lane) {
  const int F = a.n_frequencies;

  const auto position = static_cast<float>(a.positions[row]);
  const bool is_long = a.long_rows && a.long_rows[row] != 0;
  const float* frequencies = is_long ? a.long_inverse_frequency : a.inverse_frequency;
  if (norm) {
    float square = 0;
    for (int i = lane; i < dim; i += 32) square = fmaf(x[i], x[i], square);
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
      square += __shfl_xor_sync(~0u, square, step);
    const float factor = 1 / sqrtf(square / static_cast<float>(dim) + a.eps);
    for (int i = lane; i < dim; i += 32) x[i] = norm[i] * (x[i] * factor);
  }
  __syncwarp();
#pragma unroll 1
  for (int i = lane; i < F; i += 32) {
    float sine, cosine;
    sincosf(__fmul_rn(position, frequencies[i]), &sine, &cosine);
    sine *= a.scale;
    cosine *= a.scale;
    const float low = x[i], high = x[i + F];
    x[i] = cosine * low - sine * high;
    x[i + F] = cosine * high + sine * low;
  }
  __syncwarp();
}

}  // namespace optiq::kernels::cuda
