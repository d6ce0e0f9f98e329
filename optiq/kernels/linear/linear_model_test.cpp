// The device's products on cuda_model.h: what they compute, where there is no device.
#include <gtest/gtest.h>

#include <vector>

#include "optiq/kernels/linear/affine_rows_2.cu"
#include "optiq/kernels/linear/affine_rows_3.cu"
#include "optiq/kernels/linear/affine_rows_4.cu"
#include "optiq/kernels/linear/affine_rows_5.cu"
#include "optiq/kernels/linear/affine_rows_6.cu"
#include "optiq/kernels/linear/affine_rows_8.cu"
#include "optiq/kernels/linear/linear_cuda.cu"
#include "optiq/kernels/linear/testing.h"

namespace optiq::kernels {

// Small float formats have kernels that are tested on a device alone.
void cuda::fp_rows(const FewRowsArgs&, QuantMode, const Launcher&) {
  throw std::logic_error("not on the model");
}

namespace {

using namespace optiq::testing;

// The kernels of a call differ in what they are given besides its arguments.
void launch(const void* symbol, const LaunchShape& shape, void** arguments) {
  const auto& args = *static_cast<cuda::FewRowsArgs*>(arguments[0]);
  const dim3 grid{shape.grid_x, shape.grid_y, 1};
  const auto threads = static_cast<int>(shape.block_x);
  if (shape.shared_bytes == 0) {
    using Ready = void (*)(cuda::FewRowsArgs, int, std::int32_t*, int);
    const int n_groups = *static_cast<int*>(arguments[1]),
              n_zeros = *static_cast<int*>(arguments[3]);
    auto* const zeros = *static_cast<std::int32_t**>(arguments[2]);
    cuda_model::run(grid, threads, [&] {
      reinterpret_cast<Ready>(const_cast<void*>(symbol))(args, n_groups, zeros,
                                                         n_zeros);
    });
    return;
  }
  ASSERT_LE(shape.shared_bytes, sizeof(cuda_model::Block::shared));
  const bool in_blocks =
      args.M <= cuda::kRowsInBlock && !args.exact && args.scale_type != FloatType::kF32;
  if (!in_blocks) {
    using Parts = void (*)(cuda::FewRowsArgs, cuda::AffineParts);
    const auto& parts = *static_cast<cuda::AffineParts*>(arguments[1]);
    cuda_model::run(grid, threads, [&] {
      reinterpret_cast<Parts>(const_cast<void*>(symbol))(args, parts);
    });
    return;
  }
  using Rows = void (*)(cuda::FewRowsArgs, cuda::AffineRowsGrid);
  const auto& of_grid = *static_cast<cuda::AffineRowsGrid*>(arguments[1]);
  cuda_model::run(grid, threads, [&] {
    reinterpret_cast<Rows>(const_cast<void*>(symbol))(args, of_grid);
  });
}

struct Problem {
  int M, N, K;
  TestMatrix first, second;
  std::vector<float> x, norm, residual;
  Bytes bias;
  FloatType type;

  Problem(int rows, int n, int k, const QuantSpec& spec, std::uint32_t seed)
      : M(rows),
        N(n),
        K(k),
        first(random_coded(n, k, spec, static_cast<FloatType>(seed % 3), seed)),
        second(random_coded(n, k, spec, static_cast<FloatType>(seed % 3), seed + 1)),
        x(random_floats(std::size_t(rows) * k, seed + 2)),
        norm(random_floats(k, seed + 3)),
        residual(random_floats(std::size_t(rows) * n, seed + 4)),
        bias(stored_as(static_cast<FloatType>(seed % 3), random_floats(n, seed + 5))),
        type(static_cast<FloatType>(seed % 3)) {
    for (int i = 0; i < 32; ++i) x[i] *= i % 2 ? 1e-6f : 3e2f;  // groups of all sizes
  }

  Product product(const TestMatrix& w, float* y) const {
    Product p;
    p.w = w.view;
    p.bias = bias.data();
    p.bias_type = type;
    p.y = y;
    return p;
  }
};

// Rows [from, from + M) of a problem by the device's kernels.
std::vector<float> on_model(const Problem& p, bool joined, Activation activation,
                            int from, int M) {
  std::vector<float> y(std::size_t(M) * p.N, std::numeric_limits<float>::quiet_NaN());
  // In 16 bytes, as a device's memory lies.
  std::vector<uint4> x(std::size_t(M) * p.K / 4);
  std::memcpy(x.data(), p.x.data() + std::size_t(from) * p.K, x.size() * 16);
  cuda::InputRowsView input{reinterpret_cast<const float*>(x.data()), M, p.K};
  Product first = p.product(p.first, y.data());
  const Product both[] = {first, p.product(p.second, nullptr)};
  std::vector<uint4> scratch(
      cuda::scratch_bytes(input, {both, joined ? 2u : 1u}, joined, activation) / 16 +
      1);
  if (joined) {
    std::vector<uint4> norm(p.norm.size() / 4);
    std::memcpy(norm.data(), p.norm.data(), norm.size() * 16);
    input.norm_weight = reinterpret_cast<const float*>(norm.data());
    input.norm_eps = 1e-5f;
    cuda::glu(GluGate::kSilu, input, first, p.product(p.second, nullptr), y.data(),
              activation, scratch.data(), launch);
  } else {
    first.residual = p.residual.data() + std::size_t(from) * p.N;
    cuda::linear(input, {&first, 1}, activation, scratch.data(), launch);
  }
  return y;
}

// The fewest rows that meet weights in the form in which all of a problem's do.
int fewest_of_form(const Problem& p, Activation activation) {
  const bool halves = p.M > cuda::kMostByteRows && activation != Activation::kExact &&
                      p.type != FloatType::kF32;
  return halves ? cuda::kMostByteRows + 1 : 1;
}

std::vector<float> reference(const Problem& p, bool joined) {
  std::vector<float> y(std::size_t(p.M) * p.N), up(y.size()), x = p.x;
  Product first = p.product(p.first, y.data());
  if (!joined) {
    first.residual = p.residual.data();
    ref::linear_exact(x.data(), p.M, p.K, first);
    return y;
  }
  for (int m = 0; m < p.M; ++m) {
    float* row = x.data() + std::size_t(m) * p.K;
    double square = 0;
    for (int k = 0; k < p.K; ++k) square += double(row[k]) * row[k];
    const double factor = 1 / std::sqrt(square / p.K + 1e-5);
    for (int k = 0; k < p.K; ++k) row[k] = float(p.norm[k] * (row[k] * factor));
  }
  ref::linear_exact(x.data(), p.M, p.K, first);
  ref::linear_exact(x.data(), p.M, p.K, p.product(p.second, up.data()));
  for (std::size_t i = 0; i < y.size(); ++i)
    y[i] = y[i] / (1 + std::exp(-y[i])) * up[i];
  return y;
}

// Every width and group, scales of every type, tiles and steps that are not full,
// several tiles a block; and the last rows apart from others, to the same bits.
TEST(LinearOnModel, IsTheReferenceInAnyCompany) {
  struct Shape {
    int M, N, K;
  };
  const Shape shapes[] = {
      {1, 17, 384}, {2, 70, 640}, {5, 33, 128}, {19, 18, 256}, {9, 40, 1664}};
  std::uint32_t seed = 1;
  for (const QuantSpec& spec : all_specs()) {
    if (spec.mode != QuantMode::kAffine) continue;
    for (const auto& [M, N, K] : shapes) {
      const Problem p(M, N, K, spec, ++seed);
      for (const bool joined : {false, true})
        for (const Activation activation : {Activation::kInt8, Activation::kExact}) {
          SCOPED_TRACE(::testing::Message()
                       << describe(spec) << " M " << M << " N " << N << " K " << K
                       << (joined ? ", joined" : "")
                       << (activation == Activation::kExact ? ", exact" : ""));
          const std::vector<float> y = on_model(p, joined, activation, 0, M);
          const std::vector<float> expected = reference(p, joined);
          float largest = 0;
          for (const float v : expected) largest = std::max(largest, std::abs(v));
          const float share = activation == Activation::kExact ? 2e-6f : 1e-3f;
          for (std::size_t i = 0; i < y.size(); ++i)
            ASSERT_NEAR(y[i], expected[i], share * largest) << i;
          const int fewer = fewest_of_form(p, activation);
          const std::vector<float> apart =
              on_model(p, joined, activation, M - fewer, fewer);
          for (std::size_t i = 0; i < apart.size(); ++i)
            ASSERT_EQ(apart[i], y[y.size() - apart.size() + i]) << i;
        }
    }
  }
}

}  // namespace
}  // namespace optiq::kernels
