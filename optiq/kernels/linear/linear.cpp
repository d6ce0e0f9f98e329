#include "optiq/kernels/linear/linear.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "optiq/base/parallel.h"
#include "optiq/kernels/embedding/embedding.h"
#include "optiq/kernels/linear/input_rows.h"
#include "optiq/kernels/linear/kernel_table.h"
#include "optiq/kernels/linear/scratch.h"

namespace optiq::kernels {
namespace {

LinearKernels kernels_in_use() { return OPTIQ_CHOOSE(linear_kernels)(); }

// Rows of W per chunk of work: some eight chunks a thread, so that a thread that is
// held up costs little, but not so few rows that the claim of a chunk shows.
int chunk_rows(const LinearKernels& kernels, std::int64_t total_rows) {
  const std::int64_t wanted = total_rows / (std::int64_t{8} * thread_count());
  const std::int64_t most = 8 * kernels.panel_rows;
  const std::int64_t panels =
      std::clamp<std::int64_t>(wanted, 1, most) / kernels.panel_rows;
  return static_cast<int>(std::max<std::int64_t>(panels, 1)) * kernels.panel_rows;
}

// Rows [begin, end) of a product, on one thread.
struct Piece {
  const Product& product;
  const InputRows& rows;
  int begin, end;

  MultiplyFunction kernel(const LinearKernels& k) const {
    if (rows.exact) return rows.few ? k.exact_few : k.exact_many;
    return rows.few ? k.int8_few : k.int8_many;
  }

  std::size_t scratch_size(const LinearKernels& k) const {
    const ScratchFunction size =
        rows.exact ? (rows.few ? k.exact_few_scratch : k.exact_many_scratch)
        : rows.few ? nullptr
                   : k.int8_many_scratch;
    return size ? static_cast<std::size_t>(size(rows)) : 0;
  }

  void multiply(const LinearKernels& k, float* y, std::int64_t stride,
                const float* residual) const {
    thread_local Scratch scratch, bias_values, dense_rows;
    Output out{y, stride, nullptr, residual};
    const auto n = static_cast<std::size_t>(end - begin);
    if (product.bias && product.bias_type == FloatType::kF32) {
      out.bias = static_cast<const float*>(product.bias) + begin;
    } else if (product.bias) {
      auto* values = static_cast<float*>(bias_values.get(n * sizeof(float)));
      for (std::size_t i = 0; i < n; ++i)
        values[i] = load_float(product.bias, begin + static_cast<std::int64_t>(i),
                               product.bias_type);
      out.bias = values;
    }
    void* memory = scratch.get(std::max<std::size_t>(scratch_size(k), 64));
    const MatrixView& w = product.w;
    if (!w.quantized() || w.spec.mode == QuantMode::kAffine)
      return kernel(k)(w, rows, begin, end, out, memory);
    // The mx and nv formats run as dense rows.
    const auto K = static_cast<std::size_t>(w.K);
    auto* values = static_cast<float*>(dense_rows.get(n * K * sizeof(float)));
    for (std::size_t i = 0; i < n; ++i)
      ref::dequantize_row(w, begin + static_cast<int>(i), values + i * K);
    MatrixView dense;
    dense.N = static_cast<int>(n);
    dense.K = w.K;
    dense.weight = values;
    kernel(k)(dense, rows, 0, dense.N, out, memory);
  }
};

void run_reference(const float* x, int M, int K, const Product& product,
                   Activation activation) {
  const bool int8 = activation == Activation::kInt8 && has_int8(product.w);
  parallel_for(static_cast<std::size_t>(M), [&](std::size_t m) {
    Product row = product;
    const auto offset = static_cast<std::int64_t>(m) * row.w.N;
    row.y += offset;
    if (row.residual) row.residual += offset;
    const float* xm = x + static_cast<std::int64_t>(m) * K;
    int8 ? ref::linear_int8(xm, 1, K, row) : ref::linear_exact(xm, 1, K, row);
  });
}

}  // namespace

bool has_int8(const MatrixView& w) {
  return w.quantized() && w.spec.mode == QuantMode::kAffine;
}

void linear(const float* x, int M, int K, const Product* products, int n_products,
            Activation activation) {
  const LinearKernels kernels = kernels_in_use();
  if (M == 0 || n_products == 0) return;
  if (!kernels.panel_rows) {
    for (int i = 0; i < n_products; ++i)
      run_reference(x, M, K, products[i], activation);
    return;
  }
  InputForms forms(kernels, x, M, K, activation);
  std::int64_t total_rows = 0;
  for (int i = 0; i < n_products; ++i) {
    forms.want(products[i].w);
    total_rows += products[i].w.N;
  }
  forms.fill();
  const int step = chunk_rows(kernels, total_rows);
  std::vector<Piece> pieces;
  for (int i = 0; i < n_products; ++i) {
    const MatrixView& w = products[i].w;
    for (int n = 0; n < w.N; n += step)
      pieces.push_back({products[i], forms.form_for(w), n, std::min(w.N, n + step)});
  }
  parallel_for(pieces.size(), [&](std::size_t i) {
    const Piece& p = pieces[i];
    const float* residual = p.product.residual;
    p.multiply(kernels, p.product.y + p.begin, p.product.w.N,
               residual ? residual + p.begin : nullptr);
  });
}

void silu_product(const float* g, const float* u, float* y, std::int64_t n) {
  const LinearKernels kernels = kernels_in_use();
  parallel_ranges(
      static_cast<std::size_t>(n), 8192, [&](std::size_t begin, std::size_t end) {
        if (kernels.panel_rows)
          return kernels.silu_product(g + begin, u + begin, y + begin,
                                      static_cast<std::int64_t>(end - begin));
        for (std::size_t i = begin; i < end; ++i)
          y[i] = u[i] * (g[i] / (1 + std::exp(-g[i])));
      });
}

void silu_product_backward(const float* g, const float* u, const float* dy, float* dg,
                           float* du, std::int64_t n) {
  const LinearKernels kernels = kernels_in_use();
  parallel_ranges(
      static_cast<std::size_t>(n), 8192, [&](std::size_t begin, std::size_t end) {
        if (kernels.silu_product_backward)
          return kernels.silu_product_backward(g + begin, u + begin, dy + begin,
                                               dg + begin, du + begin,
                                               static_cast<std::int64_t>(end - begin));
        for (std::size_t i = begin; i < end; ++i) {
          const float s = 1 / (1 + std::exp(-g[i]));
          dg[i] = dy[i] * u[i] * s * (1 + g[i] * (1 - s));
          du[i] = dy[i] * g[i] * s;
        }
      });
}

void swiglu(const float* x, int M, int K, const Product& gate, const Product& up,
            float* y, Activation activation) {
  const LinearKernels kernels = kernels_in_use();
  if (M == 0) return;
  const int N = gate.w.N;
  if (!kernels.panel_rows) {
    const auto size = static_cast<std::size_t>(M) * static_cast<std::size_t>(N);
    std::vector<float> g(size);
    Product first = gate, second = up;
    first.y = g.data();
    second.y = y;
    run_reference(x, M, K, first, activation);
    run_reference(x, M, K, second, activation);
    for (std::size_t i = 0; i < size; ++i) y[i] *= g[i] / (1 + std::exp(-g[i]));
    return;
  }
  InputForms forms(kernels, x, M, K, activation);
  forms.want(gate.w);
  forms.want(up.w);
  forms.fill();
  const int step = chunk_rows(kernels, 2 * std::int64_t{N});
  const auto n_chunks = static_cast<std::size_t>((N + step - 1) / step);
  parallel_for(n_chunks, [&](std::size_t chunk) {
    const int begin = static_cast<int>(chunk) * step, end = std::min(N, begin + step);
    const std::int64_t n = end - begin;
    // Both halves of the chunk stay in the cache until they are joined.
    thread_local Scratch halves;
    auto* g = static_cast<float*>(
        halves.get(static_cast<std::size_t>(2 * M * n) * sizeof(float)));
    float* u = g + M * n;
    Piece{gate, forms.form_for(gate.w), begin, end}.multiply(kernels, g, n, nullptr);
    Piece{up, forms.form_for(up.w), begin, end}.multiply(kernels, u, n, nullptr);
    for (int m = 0; m < M; ++m)
      kernels.silu_product(g + m * n, u + m * n,
                           y + static_cast<std::int64_t>(m) * N + begin, n);
  });
}

}  // namespace optiq::kernels
