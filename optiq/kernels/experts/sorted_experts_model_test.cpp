// Experts of many tokens on cuda_model.h.
#include <gtest/gtest.h>

#include <cmath>

#include "optiq/kernels/cuda_model_launch.h"
#include "optiq/kernels/experts/sorted_experts_cuda.cu"
#include "optiq/kernels/linear/many_rows_cuda.cu"
#include "optiq/kernels/testing.h"

namespace optiq::kernels {

// Of experts_cuda.cu, whose own test has it.
void cuda::sum_experts(const SumExpertsArgs& a, const Launcher&) {
  for (std::int64_t t = 0; t < a.T; ++t)
    for (int k = 0; k < a.K; ++k) {
      float& y = a.y[t * a.K + k];
      y = a.residual ? a.residual[t * a.K + k] : 0;
      for (std::int64_t i = t * a.n_active; i < (t + 1) * a.n_active; ++i)
        y += a.weights[i] * float_at(a.z, i * a.K + k, a.type);
    }
}

namespace {

using namespace optiq::testing;

void launch(const void* symbol, const LaunchShape& shape, void** arguments) {
  const auto is = [&](auto kernel) {
    return symbol == reinterpret_cast<const void*>(kernel);
  };
  if (is(&cuda::sort_pairs))
    cuda_model::launch<cuda::SortArgs>(symbol, shape, arguments);
  else if (is(&cuda::grouped_product))
    cuda_model::launch<cuda::GroupedArgs>(symbol, shape, arguments);
  else if (is(&cuda::narrow_row))
    cuda_model::launch<cuda::NarrowRowsArgs>(symbol, shape, arguments);
  else
    cuda_model::launch<cuda::GluHalvesArgs>(symbol, shape, arguments);
}

std::vector<std::uint16_t> narrowed(std::vector<float>& values) {
  std::vector<std::uint16_t> all;
  for (float& v : values) {
    all.push_back(float_to_bf16(v));
    v = bf16_to_float(all.back());
  }
  return all;
}

/// In 16 bytes, as a device's memory lies.
template <class T>
struct Aligned {
  std::vector<uint4> memory;
  explicit Aligned(const std::vector<T>& values)
      : memory(values.size() * sizeof(T) / 16 + 1) {
    std::memcpy(memory.data(), values.data(), values.size() * sizeof(T));
  }
  const T* data() const { return reinterpret_cast<const T*>(memory.data()); }
};

// Experts with no row, one, a tile and more; rows and columns that fill no tile.
TEST(SortedExpertsOnModel, AreTheDefinition) {
  constexpr int E = 5, A = 2, K = 104, N = 136, T = 140;
  auto x = random_floats(std::size_t(T) * K, 1);
  auto gate_and_up = random_floats(std::size_t(2) * E * N * K, 2);
  auto down = random_floats(std::size_t(E) * K * N, 3);
  const auto weights = random_floats(std::size_t(T) * A, 4);
  const auto residual = random_floats(std::size_t(T) * K, 5);
  std::vector<std::int32_t> ids;
  for (int t = 0; t < T; ++t) ids.insert(ids.end(), {2, t == 7 ? 0 : 3 + t % 2});
  const Aligned<std::uint16_t> both(narrowed(gate_and_up)), last(narrowed(down));
  const Aligned<float> aligned(x);
  std::vector<float> y(x.size(), NAN);
  cuda::SortedExpertsArgs args{aligned.data(),
                               ids.data(),
                               weights.data(),
                               residual.data(),
                               both.data(),
                               last.data(),
                               y.data(),
                               T,
                               A,
                               E,
                               K,
                               N,
                               GluGate::kSilu};
  std::vector<uint4> scratch(cuda::sorted_experts_scratch_bytes(args) / 16 + 1);
  cuda::sorted_experts(args, scratch.data(), launch);

  narrowed(x);
  double largest = 0, off = 0;
  for (int t = 0; t < T; ++t) {
    std::vector<double> expected(residual.begin() + t * K,
                                 residual.begin() + (t + 1) * K);
    for (int i = 0; i < A; ++i) {
      const int e = ids[t * A + i];
      std::vector<double> h(N);
      for (int n = 0; n < N; ++n) {
        double g = 0, u = 0;
        for (int k = 0; k < K; ++k) {
          g += double(x[t * K + k]) * gate_and_up[(std::size_t(e) * N + n) * K + k];
          u += double(x[t * K + k]) * gate_and_up[(std::size_t(E + e) * N + n) * K + k];
        }
        h[n] = g / (1 + std::exp(-g)) * u;
      }
      for (int k = 0; k < K; ++k) {
        double z = 0;
        for (int n = 0; n < N; ++n) z += h[n] * down[(std::size_t(e) * K + k) * N + n];
        expected[k] += weights[t * A + i] * z;
      }
    }
    for (int k = 0; k < K; ++k) {
      largest = std::max(largest, std::abs(expected[k]));
      off = std::max(off, std::abs(expected[k] - y[t * K + k]));
      ASSERT_FALSE(std::isnan(y[t * K + k]));
    }
  }
  EXPECT_LE(off, 0.01 * largest);
}

}  // namespace
}  // namespace optiq::kernels
