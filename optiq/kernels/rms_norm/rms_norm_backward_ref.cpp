#include <cmath>
#include <vector>

#include "optiq/kernels/rms_norm/rms_norm_backward.h"

namespace optiq::kernels::ref {

void rms_norm_backward_rows(const RmsNormBackwardArgs& args, std::int64_t begin,
                            std::int64_t end) {
  const RmsNormArgs& f = args.forward;
  std::vector<double> d(static_cast<std::size_t>(f.dim));
  for (std::int64_t row = begin; row < end; ++row) {
    const std::int64_t at = row * f.dim;
    double squares = 0, along = 0;
    for (int i = 0; i < f.dim; ++i)
      squares += static_cast<double>(f.x[at + i]) * f.x[at + i];
    const double r = 1 / std::sqrt(squares / f.dim + f.eps);
    for (int i = 0; i < f.dim; ++i) {
      double one = static_cast<double>(args.dy[at + i]) * f.weight[i];
      if (f.gate) {
        const double g = f.gate[at + i], s = 1 / (1 + std::exp(-g));
        args.dgate[at + i] =
            static_cast<float>(one * f.x[at + i] * r * s * (1 + g * (1 - s)));
        one *= g * s;
      }
      d[static_cast<std::size_t>(i)] = one;
      along += one * f.x[at + i];
    }
    for (int i = 0; i < f.dim; ++i)
      args.dx[at + i] = static_cast<float>(
          r * (d[static_cast<std::size_t>(i)] - f.x[at + i] * r * r * along / f.dim));
  }
}

}  // namespace optiq::kernels::ref
