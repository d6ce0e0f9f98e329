// The gated product of an MLP: f(g) u, and its gradients.
#pragma once
#include <cstdint>

namespace optiq::kernels {

/// What becomes of the gate before it multiplies.
///
/// kSilu      g sigmoid(g)
/// kGeluTanh  g (1 + tanh(sqrt(2 / pi) (g + 0.044715 g^3))) / 2
/// Source     Shazeer 2020, "GLU variants": SwiGLU and GEGLU; the tanh form of GELU:
///            Hendrycks and Gimpel 2016, section 2.
enum class GluGate { kSilu, kGeluTanh };

/// y = f(g) u.
///
/// Shapes    g, u, y [n]; y may be g or u
/// Threads   runs on the pool.
void glu_product(GluGate gate, const float* g, const float* u, float* y,
                 std::int64_t n);

/// Its gradients: dg = dy u f'(g), du = dy f(g).
void glu_product_backward(GluGate gate, const float* g, const float* u, const float* dy,
                          float* dg, float* du, std::int64_t n);

/// y = f(g) u on the calling thread alone, to the same bits: for kernels that have the
/// two halves in a cache.
void glu_product_here(GluGate gate, const float* g, const float* u, float* y,
                      std::int64_t n);

namespace ref {
/// The definitions, in double precision.
void glu_rows(GluGate gate, const float* g, const float* u, float* y, std::int64_t n);
void glu_backward_rows(GluGate gate, const float* g, const float* u, const float* dy,
                       float* dg, float* du, std::int64_t n);
}  // namespace ref
}  // namespace optiq::kernels
