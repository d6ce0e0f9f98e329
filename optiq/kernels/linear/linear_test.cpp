#include "optiq/kernels/linear/linear.h"

#include "optiq/base/parallel.h"
#include "optiq/kernels/embedding/embedding.h"
#include "optiq/kernels/guarded.h"
#include "optiq/kernels/linear/input_rows.h"
#include "optiq/kernels/linear/scratch.h"
#include "optiq/kernels/linear/testing.h"
#include "optiq/kernels/testing.h"

namespace optiq::kernels {
#if defined(__x86_64__)
namespace amx_model {
LinearKernels linear_kernels();  // those of amx, its instructions as loops
}
#endif
namespace {

using namespace optiq::testing;

// Every array of a call, as of its matrix, ends at a page that must not be touched.
struct Call {
  int M;
  GuardedFloats x, bias, residual;

  Call(int rows, const MatrixView& w, std::uint32_t seed)
      : M(rows),
        x(guarded(random_floats(static_cast<std::size_t>(rows * w.K), seed))),
        bias(guarded(random_floats(static_cast<std::size_t>(w.N), seed + 1))),
        residual(
            guarded(random_floats(static_cast<std::size_t>(rows * w.N), seed + 2))) {}

  Product product(const MatrixView& w, GuardedFloats& y) const {
    y.assign(residual.size(), NAN);
    Product p;
    p.w = w;
    p.bias = bias.data();
    p.residual = residual.data();
    p.y = y.data();
    return p;
  }
};

void expect_same_bits(const GuardedFloats& a, const GuardedFloats& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i)
    if (a[i] != b[i] && !(std::isnan(a[i]) && std::isnan(b[i]))) {
      ADD_FAILURE() << "value " << i << ": " << a[i] << " and " << b[i];
      return;
    }
}

struct Shape {
  int M, N, K;
};
// One row, odd rows, one group, groups that fill no step, tiles of every height.
const Shape kShapes[] = {{1, 1, 128},  {1, 17, 384},   {2, 33, 1024}, {3, 5, 128},
                         {4, 18, 640}, {8, 17, 384},   {9, 70, 128},  {33, 40, 640},
                         {70, 9, 384}, {13, 33, 2304}, {1, 70, 2304}};

TEST(Linear, GivesTheBitsOfTheReferenceInInt8) {
  for (const QuantSpec& spec : all_specs()) {
    if (spec.mode != QuantMode::kAffine) continue;
    std::uint32_t seed = 1;
    for (const auto& [M, N, K] : kShapes) {
      const auto type = static_cast<FloatType>(seed % 3);
      SCOPED_TRACE(::testing::Message() << describe(spec) << " M " << M << " N " << N
                                        << " K " << K << " type " << int(type));
      const TestMatrix w = random_coded(N, K, spec, type, ++seed);
      const Call call(M, w.view, seed);
      GuardedFloats expected, y;
      ref::linear_int8(call.x.data(), M, K, call.product(w.view, expected));
      for_each_simd_target([&] {
        const Product p = call.product(w.view, y);
        linear(call.x.data(), M, K, &p, 1, Activation::kInt8);
        expect_same_bits(y, expected);
      });
    }
  }
}

#if defined(__x86_64__)
TEST(Linear, TilesGiveTheBitsOfTheReferenceWithoutTheirInstructions) {
  if (std::ranges::find(supported_simd_targets(), SimdTarget::kAvx512) ==
      supported_simd_targets().end())
    GTEST_SKIP() << "the loops around the tiles need AVX-512";
  const LinearKernels kernels = amx_model::linear_kernels();
  std::uint32_t seed = 1;
  for (const QuantSpec& spec : all_specs()) {
    if (spec.mode != QuantMode::kAffine) continue;
    for (const auto& [M, N, K] : {Shape{9, 65, 128},
                                  {16, 17, 384},
                                  {33, 70, 640},
                                  {17, 5, 2304},
                                  {40, 33, 5120}}) {
      const auto type = static_cast<FloatType>(++seed % 3);
      SCOPED_TRACE(::testing::Message() << describe(spec) << " M " << M << " N " << N
                                        << " K " << K << " type " << int(type));
      const TestMatrix w = random_coded(N, K, spec, type, seed);
      const Call call(M, w.view, seed);
      GuardedFloats expected, y;
      ref::linear_int8(call.x.data(), M, K, call.product(w.view, expected));
      call.product(w.view, y);
      InputForms forms(kernels, call.x.data(), M, K, Activation::kInt8);
      forms.want(w.view);
      forms.fill();
      const InputRows& rows = forms.form_for(w.view);
      Scratch scratch;
      void* memory =
          scratch.get(static_cast<std::size_t>(kernels.int8_many_scratch(rows)));
      for (int begin = 0; begin < N; begin += kernels.panel_rows) {
        const int end = std::min(N, begin + (seed % 2 ? N : kernels.panel_rows));
        kernels.int8_many(w.view, rows, begin, end,
                          {y.data() + begin, N, call.bias.data() + begin,
                           call.residual.data() + begin},
                          memory);
        if (end == N) break;
      }
      expect_same_bits(y, expected);
    }
  }
}
#endif

TEST(Linear, TakesOneGroupOrThreeOfThirtyTwo) {
  for (int bits : {2, 3, 4, 5, 6, 8})
    for (int K : {32, 96}) {
      SCOPED_TRACE(::testing::Message() << bits << " bits, K " << K);
      const TestMatrix w =
          random_coded(17, K, {QuantMode::kAffine, bits, 32}, FloatType::kBF16, 3);
      for (int M : {1, 2, 9}) {
        const Call call(M, w.view, 4);
        GuardedFloats expected, y;
        ref::linear_int8(call.x.data(), M, K, call.product(w.view, expected));
        for_each_simd_target([&] {
          const Product p = call.product(w.view, y);
          linear(call.x.data(), M, K, &p, 1, Activation::kInt8);
          expect_same_bits(y, expected);
        });
      }
    }
}

// Float sums: a chain of 64, then at most K / 64 additions of chains, bias, residual.
double exact_tolerance(const Call& call, const MatrixView& w) {
  double terms = 0;
  for (int n = 0; n < w.N; ++n) {
    double row = 2 * (std::abs(call.bias[static_cast<std::size_t>(n)]) + 4);
    for (int k = 0; k < w.K; ++k)
      row += std::abs(ref::weight_at(w, n, k)) * 5.0;  // |x| < 5 for all but a few
    terms = std::max(terms, row);
  }
  return (64 + w.K / 64 + 20) * kFloatEpsilon / 2 * terms;
}

void expect_exact(const MatrixView& w, int M, std::uint32_t seed) {
  const Call call(M, w, seed);
  GuardedFloats expected, y;
  ref::linear_exact(call.x.data(), M, w.K, call.product(w, expected));
  const double tolerance = exact_tolerance(call, w);
  GuardedFloats first;
  for_each_simd_target([&] {
    const Product p = call.product(w, y);
    linear(call.x.data(), M, w.K, &p, 1, Activation::kExact);
    EXPECT_LE(max_abs_difference(y, expected), tolerance);
    if (first.empty()) first = y;
    if (simd_target() != SimdTarget::kScalar) expect_same_bits(y, first);
  });
}

TEST(Linear, AgreesWithTheReferenceInFloatsOnAllTargetsAlike) {
  for (const QuantSpec& spec : all_specs()) {
    std::uint32_t seed = 1;
    for (const auto& [M, N, K] : kShapes) {
      SCOPED_TRACE(::testing::Message()
                   << describe(spec) << " M " << M << " N " << N << " K " << K);
      const auto type = static_cast<FloatType>(++seed % 3);
      const TestMatrix w = random_coded(N, K, spec, type, seed);
      expect_exact(w.view, M, seed);
    }
  }
}

TEST(Linear, MultipliesDenseMatricesOfAnyWidth) {
  for (FloatType type : {FloatType::kF32, FloatType::kF16, FloatType::kBF16})
    for (const auto& [M, N, K] : {Shape{1, 1, 1},
                                  {1, 17, 100},
                                  {2, 5, 1030},
                                  {4, 33, 127},
                                  {5, 18, 129},
                                  {33, 40, 1100},
                                  {1, 70, 2304},
                                  {70, 35, 33}}) {
      SCOPED_TRACE(::testing::Message() << "M " << M << " N " << N << " K " << K);
      const TestMatrix w = random_dense(N, K, type, 5);
      expect_exact(w.view, M, 6);
    }
}

TEST(Linear, ARowDoesNotDependOnTheRowsBesideIt) {
  constexpr int M = 26, N = 35, K = 1280;
  std::vector<TestMatrix> matrices;
  for (int bits : {3, 4, 8})
    matrices.push_back(
        random_coded(N, K, {QuantMode::kAffine, bits, 64}, FloatType::kBF16, 7));
  matrices.push_back(random_dense(N, K, FloatType::kBF16, 8));
  for (const TestMatrix& w : matrices) {
    const Call call(M, w.view, 9);
    for_each_simd_target([&] {
      for (Activation activation : {Activation::kInt8, Activation::kExact}) {
        GuardedFloats together;
        Product p = call.product(w.view, together);
        linear(call.x.data(), M, K, &p, 1, activation);
        for (int rows : {1, 2, 3, 4, 5, 13}) {
          GuardedFloats apart;
          p = call.product(w.view, apart);
          for (int m = 0; m < M; m += rows) {
            Product part = p;
            part.y += m * N;
            part.residual += m * N;
            linear(call.x.data() + m * K, std::min(rows, M - m), K, &part, 1,
                   activation);
          }
          expect_same_bits(apart, together);
        }
      }
    });
  }
}

TEST(Linear, TheNumberOfThreadsChangesNoBit) {
  constexpr int M = 9, N = 300, K = 512;
  const TestMatrix w =
      random_coded(N, K, {QuantMode::kAffine, 4, 64}, FloatType::kBF16, 7);
  const Call call(M, w.view, 9);
  GuardedFloats first, y;
  const int threads = thread_count();
  for (int n : {1, 2, 5}) {
    set_thread_count(n);
    const Product p = call.product(w.view, y);
    linear(call.x.data(), M, K, &p, 1, Activation::kInt8);
    if (first.empty()) first = y;
    expect_same_bits(y, first);
  }
  set_thread_count(threads);
}

TEST(Linear, WhatIsNotANumberStaysInItsRow) {
  constexpr int N = 20, K = 256;
  const TestMatrix w =
      random_coded(N, K, {QuantMode::kAffine, 4, 64}, FloatType::kF32, 7);
  for (float bad : {NAN, INFINITY, -INFINITY})
    for (int M : {3, 9})
      for_each_simd_target([&] {
        for (Activation activation : {Activation::kInt8, Activation::kExact}) {
          Call call(M, w.view, 9);
          call.x[K + 70] = bad;  // row 1
          GuardedFloats y;
          const Product p = call.product(w.view, y);
          linear(call.x.data(), M, K, &p, 1, activation);
          for (std::size_t i = 0; i < y.size(); ++i)
            EXPECT_EQ(std::isfinite(y[i]), i / N != 1) << i;
        }
      });
}

TEST(Linear, ZerosGiveTheBiasAndHugeValuesStayFinite) {
  constexpr int M = 5, N = 20, K = 256;
  const TestMatrix w =
      random_coded(N, K, {QuantMode::kAffine, 4, 64}, FloatType::kF32, 7);
  for (float value : {0.0f, 1e-38f, 1e30f})
    for_each_simd_target([&] {
      Call call(M, w.view, 9);
      std::fill(call.x.begin(), call.x.end(), value);
      GuardedFloats y, expected;
      Product p = call.product(w.view, y);
      linear(call.x.data(), M, K, &p, 1, Activation::kInt8);
      ref::linear_int8(call.x.data(), M, K, call.product(w.view, expected));
      expect_same_bits(y, expected);
      for (int i = 0; i < M * N; ++i) {
        const auto at = static_cast<std::size_t>(i);
        EXPECT_TRUE(std::isfinite(y[at]));
        if (value > 1) continue;
        EXPECT_EQ(y[at], call.bias[at % N] + call.residual[at]);
      }
    });
}

TEST(Linear, TakesABiasOfAnyFloatTypeAndSeveralProductsAtOnce) {
  constexpr int K = 384;
  for (FloatType type : {FloatType::kF32, FloatType::kF16, FloatType::kBF16})
    for (int M : {1, 9}) {
      std::vector<TestMatrix> w;
      std::vector<Call> calls;
      std::vector<Bytes> biases;
      for (int N : {5, 33, 70}) {
        w.push_back(random_coded(N, K, {QuantMode::kAffine, 4, 128}, type, 7));
        calls.emplace_back(M, w.back().view, 9);
        biases.push_back(stored_as(type, random_floats(static_cast<size_t>(N), 4)));
      }
      std::vector<GuardedFloats> y(3), expected(3);
      const auto product = [&](std::size_t i, GuardedFloats& out) {
        Product p = calls[i].product(w[i].view, out);
        p.bias = biases[i].data();
        p.bias_type = type;
        return p;
      };
      for (std::size_t i = 0; i < 3; ++i)
        ref::linear_int8(calls[0].x.data(), M, K, product(i, expected[i]));
      for_each_simd_target([&] {
        Guarded<Product> products;
        products.assign({product(0, y[0]), product(1, y[1]), product(2, y[2])});
        linear(calls[0].x.data(), M, K, products.data(), 3, Activation::kInt8);
        for (std::size_t i = 0; i < 3; ++i) expect_same_bits(y[i], expected[i]);
      });
    }
}

TEST(Glu, JoinsTheTwoProductsForEveryFormat) {
  std::vector<QuantSpec> specs = all_specs();
  for (const auto& [M, N, K] : {Shape{1, 17, 128}, {3, 40, 384}, {9, 35, 640}})
    for (const QuantSpec& spec : specs) {
      SCOPED_TRACE(::testing::Message()
                   << describe(spec) << " M " << M << " N " << N << " K " << K);
      const TestMatrix gate = random_coded(N, K, spec, FloatType::kF16, 1);
      const TestMatrix up = random_coded(N, K, spec, FloatType::kF16, 2);
      const Call call(M, gate.view, 3);
      for_each_simd_target([&] {
        for (Activation activation : {Activation::kInt8, Activation::kExact}) {
          GuardedFloats g, u, y;
          Product products[2] = {call.product(gate.view, g), call.product(up.view, u)};
          for (Product& p : products) p.residual = nullptr;
          linear(call.x.data(), M, K, products, 2, activation);
          y.assign(g.size(), NAN);
          glu(GluGate::kSilu, call.x.data(), M, K, products[0], products[1], y.data(),
              activation);
          for (std::size_t i = 0; i < y.size(); ++i) {
            const double expected = u[i] * (g[i] / (1 + std::exp(-double{g[i]})));
            // exp within 2 ulp, three roundings after it; past e^87 it is held.
            const double held = std::exp(-87.0) * std::abs(double{g[i]} * u[i]);
            ASSERT_NEAR(y[i], expected, 8 * kFloatEpsilon * std::abs(expected) + held);
          }
        }
      });
    }
}

TEST(DequantizeRows, GivesTheWeightsOfEveryFormat) {
  const auto expect_rows = [](const TestMatrix& w) {
    Guarded<std::int32_t> ids;
    ids.assign({w.view.N - 1, 0, w.view.N - 1});
    GuardedFloats y(3 * static_cast<std::size_t>(w.view.K));
    for_each_simd_target([&] {
      std::ranges::fill(y, NAN);
      dequantize_rows(w.view, ids.data(), 3, y.data());
      for (std::size_t i = 0; i < y.size(); ++i) {
        const int k = static_cast<int>(i) % w.view.K;
        ASSERT_EQ(y[i],
                  ref::weight_at(w.view, ids[i / static_cast<size_t>(w.view.K)], k));
      }
    });
  };
  for (const QuantSpec& spec : all_specs())
    for (int K : {128, 640}) expect_rows(random_coded(5, K, spec, FloatType::kBF16, 3));
  for (FloatType type : {FloatType::kF32, FloatType::kF16, FloatType::kBF16})
    for (int K : {1, 33, 127, 1030}) expect_rows(random_dense(3, K, type, 5));
}

}  // namespace
}  // namespace optiq::kernels
