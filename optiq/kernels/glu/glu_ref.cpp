#include <cmath>

#include "optiq/kernels/glu/glu.h"

namespace optiq::kernels::ref {
namespace {

struct Gate {
  double value, slope;
};

Gate gate_at(GluGate gate, double g) {
  if (gate == GluGate::kSilu) {
    const double s = 1 / (1 + std::exp(-g));
    return {g * s, s * (1 + g * (1 - s))};
  }
  const double c = std::sqrt(8 / 3.14159265358979323846);  // sqrt(2 / pi), doubled
  const double s = 1 / (1 + std::exp(-c * (g + 0.044715 * g * g * g)));
  return {g * s, s * (1 + g * (1 - s) * c * (1 + 3 * 0.044715 * g * g))};
}

}  // namespace

void glu_rows(GluGate gate, const float* g, const float* u, float* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i)
    y[i] = static_cast<float>(gate_at(gate, g[i]).value * u[i]);
}

void glu_backward_rows(GluGate gate, const float* g, const float* u, const float* dy,
                       float* dg, float* du, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    const Gate f = gate_at(gate, g[i]);
    const double d = dy[i];
    dg[i] = static_cast<float>(d * u[i] * f.slope);
    du[i] = static_cast<float>(d * f.value);
  }
}

}  // namespace optiq::kernels::ref
