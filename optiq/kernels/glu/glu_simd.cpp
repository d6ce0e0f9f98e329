// One pass, bound by bytes: each gate is its argument times a sigmoid, and
// (1 + tanh v) / 2 is the sigmoid of 2 v.
#include "optiq/kernels/glu/glu.h"
#include "optiq/kernels/simd_vector.h"

namespace optiq::kernels::OPTIQ_SIMD {
namespace {

struct Silu {
  OPTIQ_INLINE Vec argument(Vec g) { return g; }
  OPTIQ_INLINE Vec slope(Vec) { return broadcast(1.0f); }
};

struct GeluTanh {
  static constexpr float kTwice = 1.5957691216057308f;  // 2 sqrt(2 / pi)
  static constexpr float kCubic = 0.044715f;
  OPTIQ_INLINE Vec argument(Vec g) { return kTwice * (g + kCubic * g * g * g); }
  OPTIQ_INLINE Vec slope(Vec g) { return kTwice * (1.0f + 3 * kCubic * g * g); }
};

template <class Gate>
OPTIQ_INLINE Vec product(Vec g, Vec u) {
  return g * sigmoid(Gate::argument(g)) * u;
}

template <class Gate>
OPTIQ_INLINE void gradients(Vec g, Vec u, Vec d, Vec& by_gate, Vec& by_up) {
  const Vec s = sigmoid(Gate::argument(g));
  by_gate = d * u * s * (1.0f + g * (1.0f - s) * Gate::slope(g));
  by_up = d * g * s;
}

template <class Gate>
OPTIQ_INLINE void forward(const float* g, const float* u, float* y, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    store(y + i, product<Gate>(load(g + i), load(u + i)));
  for (; i < n; ++i) y[i] = product<Gate>(broadcast(g[i]), broadcast(u[i]))[0];
}

template <class Gate>
OPTIQ_INLINE void backward(const float* g, const float* u, const float* dy, float* dg,
                           float* du, std::int64_t n) {
  Vec by_gate, by_up;
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    gradients<Gate>(load(g + i), load(u + i), load(dy + i), by_gate, by_up);
    store(dg + i, by_gate);
    store(du + i, by_up);
  }
  for (; i < n; ++i) {
    gradients<Gate>(broadcast(g[i]), broadcast(u[i]), broadcast(dy[i]), by_gate, by_up);
    dg[i] = by_gate[0];
    du[i] = by_up[0];
  }
}

}  // namespace

void glu_rows(GluGate gate, const float* g, const float* u, float* y, std::int64_t n) {
  if (gate == GluGate::kSilu)
    forward<Silu>(g, u, y, n);
  else
    forward<GeluTanh>(g, u, y, n);
}

void glu_backward_rows(GluGate gate, const float* g, const float* u, const float* dy,
                       float* dg, float* du, std::int64_t n) {
  if (gate == GluGate::kSilu)
    backward<Silu>(g, u, dy, dg, du, n);
  else
    backward<GeluTanh>(g, u, dy, dg, du, n);
}

}  // namespace optiq::kernels::OPTIQ_SIMD
