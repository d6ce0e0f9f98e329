// The device's low-rank products on cuda_model.h.
#include <gtest/gtest.h>

#include <cmath>

#include "optiq/kernels/cuda_model_launch.h"
#include "optiq/kernels/guarded.h"
#include "optiq/kernels/low_rank/low_rank_cuda.cu"
#include "optiq/kernels/testing.h"

namespace optiq::kernels {
namespace {

using namespace optiq::testing;

// Two products of one x: rows of two adapters and of nobody, gains with a bias and
// without, factors in halves; more parts than a launch takes.
TEST(LowRankOnModel, IsTheReference) {
  for (const int n_parts : {3, cuda::kPartsAtOnce}) {
    const int K = 203, N[] = {150, 33}, M = n_parts + 2;
    const auto x = guarded(random_floats(std::size_t(M) * K, 1));
    std::vector<GuardedFloats> y, out, expected;
    const auto residual = guarded(random_floats(std::size_t(M) * N[0], 2));
    const auto bias = guarded(random_floats(N[1], 3));
    const auto gain = guarded(random_floats(N[1], 4));
    std::vector<LowRankFactors> factors;
    std::vector<Guarded<std::uint16_t>> matrices;
    matrices.reserve(8);
    const auto narrowed = [&](std::size_t n, std::uint32_t seed) {
      Guarded<std::uint16_t> all;
      std::vector<std::uint16_t> values;
      for (const float v : random_floats(n, seed)) values.push_back(float_to_bf16(v));
      matrices.push_back(guarded(values));
      return matrices.back().data();
    };
    for (const int n : N)
      for (const int rank : {3, 16})
        factors.push_back({narrowed(std::size_t(rank) * K, n + rank),
                           narrowed(std::size_t(rank) * n, n + rank + 1),
                           FloatType::kBF16, FloatType::kBF16, rank, 1.5f,
                           n == N[1] && rank == 3 ? gain.data() : nullptr});
    std::vector<std::vector<LowRankRows>> rows(2);
    for (int i = 0; i < 2; ++i) {
      y.push_back(guarded(random_floats(std::size_t(M) * N[i], 9 + i)));
      out.emplace_back(y.back().size());
      expected.emplace_back(y.back().size());
      for (int part = 0, row = 0; part < n_parts; ++part) {
        const int end = row + (part == 1 ? 3 : 1);
        rows[i].push_back(
            {row, end, part % 3 == 2 ? nullptr : &factors[2 * i + part % 3]});
        row = end;
      }
    }
    std::vector<LowRankArgs> products;
    for (int i = 0; i < 2; ++i)
      products.push_back({x.data(), y[i].data(), i == 0 ? residual.data() : nullptr,
                          i == 1 ? bias.data() : nullptr, out[i].data(), K, N[i],
                          rows[i]});
    std::vector<float> scratch(cuda::low_rank_scratch_bytes(products) / 4);
    cuda::low_rank(products, scratch.data(), cuda_model::launch<cuda::LowRankCall>);
    for (int i = 0; i < 2; ++i) {
      LowRankArgs args = products[i];
      args.out = expected[i].data();
      for (const LowRankRows& part : rows[i]) {
        std::vector<float> h(std::size_t(part.end - part.begin) * 16);
        if (part.factors)
          ref::low_rank_inner(args, *part.factors, part.begin, part.end, h.data());
        ref::low_rank_outer(args, part.factors, part.begin, part.end, h.data(), 0,
                            N[i]);
      }
      float largest = 0;
      for (const float v : expected[i]) largest = std::max(largest, std::abs(v));
      EXPECT_LE(max_abs_difference(out[i], expected[i]), 2e-6 * largest);
    }
  }
}

}  // namespace
}  // namespace optiq::kernels
