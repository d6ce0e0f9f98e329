#include <cstdint>

#include "optiq/kernels/low_rank/low_rank.h"

namespace optiq::kernels::ref {

void low_rank_inner(const LowRankArgs& args, const LowRankFactors& f, int begin,
                    int end, float* h) {
  for (int m = begin; m < end; ++m)
    for (int r = 0; r < f.rank; ++r) {
      double sum = 0;
      for (int k = 0; k < args.K; ++k)
        sum += static_cast<double>(args.x[std::int64_t{m} * args.K + k]) *
               load_float(f.a, std::int64_t{r} * args.K + k, f.a_type);
      h[(m - begin) * f.rank + r] = static_cast<float>(f.scale * sum);
    }
}

void low_rank_outer(const LowRankArgs& args, const LowRankFactors* f, int begin,
                    int end, const float* h, int n_begin, int n_end) {
  for (int m = begin; m < end; ++m)
    for (int n = n_begin; n < n_end; ++n) {
      const std::int64_t at = std::int64_t{m} * args.N + n;
      double value = args.y[at];
      if (f) {
        double z = 0;
        for (int r = 0; r < f->rank; ++r)
          z += static_cast<double>(h[(m - begin) * f->rank + r]) *
               load_float(f->b, std::int64_t{r} * args.N + n, f->b_type);
        const double bias = args.bias ? args.bias[n] : 0;
        value = f->gain ? f->gain[n] * (value - bias + z) + bias : value + z;
      }
      if (args.residual) value += args.residual[at];
      args.out[at] = static_cast<float>(value);
    }
}

}  // namespace optiq::kernels::ref
