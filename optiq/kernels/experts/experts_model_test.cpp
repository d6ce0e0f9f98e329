// The device's routing and experts on cuda_model.h.
#include <gtest/gtest.h>

#include <cmath>

#include "optiq/kernels/cuda_model_launch.h"
#include "optiq/kernels/experts/expert_rows_2.cu"
#include "optiq/kernels/experts/expert_rows_3.cu"
#include "optiq/kernels/experts/expert_rows_4.cu"
#include "optiq/kernels/experts/expert_rows_5.cu"
#include "optiq/kernels/experts/expert_rows_6.cu"
#include "optiq/kernels/experts/expert_rows_8.cu"
#include "optiq/kernels/experts/experts_cuda.cu"
#include "optiq/kernels/linear/testing.h"

namespace optiq::kernels {
namespace {

using namespace optiq::testing;

constexpr int kExperts = 4;

void launch_experts(const void* symbol, const LaunchShape& shape, void** arguments) {
  if (symbol == reinterpret_cast<const void*>(&cuda::sum_of_experts))
    cuda_model::launch<cuda::SumExpertsArgs>(symbol, shape, arguments);
  else
    cuda_model::launch<cuda::ExpertRowsArgs>(symbol, shape, arguments);
}

std::vector<float> on_model(ExpertsArgs args) {
  std::vector<float> y(std::size_t(args.T) * args.gate.K, NAN);
  // In 16 bytes, as a device's memory lies.
  std::vector<uint4> scratch(cuda::experts_scratch_bytes(args) / 16 + 1);
  args.y = y.data();
  cuda::experts(args, scratch.data(), launch_experts);
  return y;
}

std::vector<float> reference(ExpertsArgs args) {
  std::vector<float> y(std::size_t(args.T) * args.gate.K, NAN);
  args.y = y.data();
  args.activation = Activation::kExact;
  ref::experts(args);
  return y;
}

// Fewer pairs than experts and more, an expert with more rows than go at once, gate and
// up of one format and of two, K of whole steps and not; and the last token alone, to
// the same bits.
TEST(ExpertsOnModel, AreTheReferenceInAnyCompany) {
  std::vector<QuantSpec> specs;
  for (const QuantSpec& spec : all_specs())
    if (spec.mode == QuantMode::kAffine) specs.push_back(spec);
  std::uint32_t seed = 1;
  for (std::size_t i = 0; i < specs.size(); ++i) {
    const QuantSpec spec = specs[i], other = specs[(i * 7 + 3) % specs.size()];
    const auto type = i % 2 ? FloatType::kF16 : FloatType::kBF16;
    const int K = i % 6 ? 128 : 640, N = i % 6 ? 256 : 128;
    const auto make = [&](int rows, int columns, const QuantSpec& of) {
      return random_coded(rows, columns, of, type, ++seed);
    };
    const TestMatrix gate = make(kExperts * N, K, spec);
    const TestMatrix up = make(kExperts * N, K, i % 4 ? spec : other);
    const TestMatrix down = make(kExperts * K, N, other);
    for (const auto& [T, n_active] : {std::pair{1, 3}, {6, 2}}) {
      // Of both forms the one or the other.
      const Activation activation =
          (i + T) % 2 ? Activation::kInt8 : Activation::kExact;
      SCOPED_TRACE(::testing::Message()
                   << describe(spec) << " and " << describe(other) << " T " << T
                   << (activation == Activation::kExact ? " exact" : ""));
      std::vector<std::int32_t> ids;
      for (int t = 0; t < T; ++t)
        for (int n = 0; n < n_active; ++n) ids.push_back(n == 0 ? 3 : (t + n) % 3);
      const auto pairs = std::size_t(T) * n_active;
      // As a device has them: at multiples of 16 bytes.
      const auto x = random_floats(std::size_t(T) * K, ++seed);
      std::vector<uint4> aligned(x.size() / 4);
      std::memcpy(aligned.data(), x.data(), x.size() * 4);
      const auto weights = random_floats(pairs, ++seed);
      const auto residual = random_floats(x.size(), ++seed);
      ExpertsArgs args{};
      args.x = reinterpret_cast<const float*>(aligned.data());
      args.ids = ids.data();
      args.weights = weights.data();
      args.residual = i % 2 ? residual.data() : nullptr;
      args.T = T;
      args.n_active = n_active;
      args.n_experts = kExperts;
      args.gate = gate.view;
      args.up = up.view;
      args.down = down.view;
      args.f = i % 2 ? GluGate::kSilu : GluGate::kGeluTanh;
      args.activation = activation;
      const auto y = on_model(args), expected = reference(args);
      float largest = 0;
      for (const float v : expected) largest = std::max(largest, std::abs(v));
      const float share = activation == Activation::kExact ? 4e-6f : 2e-3f;
      for (std::size_t n = 0; n < y.size(); ++n)
        ASSERT_NEAR(y[n], expected[n], share * largest) << n;
      const std::size_t last = T - 1;
      args.x += last * K;
      args.ids += last * n_active;
      args.weights += last * n_active;
      if (args.residual) args.residual += last * K;
      args.T = 1;
      const auto alone = on_model(args);
      for (int k = 0; k < K; ++k) ASSERT_EQ(alone[k], y[last * K + k]) << k;
    }
  }
}

// Ties, infinities, what is no number, more active experts than a warp has lanes.
TEST(RouteOnModel, IsTheHostsRoute) {
  for (const auto& [n_experts, n_active] :
       {std::pair{1, 1}, {5, 5}, {60, 4}, {64, 40}, {128, 8}, {1000, 33}})
    for (const bool normalize : {false, true}) {
      constexpr int T = 5;
      auto logits = random_floats(std::size_t(T) * n_experts, 7);
      for (float& v : logits) v = std::round(v * 4);  // many are equal
      logits[std::size_t(n_experts)] = NAN;
      logits.back() = -INFINITY;
      const auto scale = random_floats(n_experts, 8);
      std::vector<std::int32_t> ids(std::size_t(T) * n_active), expected_ids = ids;
      std::vector<float> weights(ids.size()), expected = weights;
      RouteArgs args{};
      args.logits = logits.data();
      args.expert_scale = normalize ? scale.data() : nullptr;
      args.T = T;
      args.n_experts = n_experts;
      args.n_active = n_active;
      args.normalize = normalize;
      args.ids = expected_ids.data();
      args.weights = expected.data();
      route(args);
      args.ids = ids.data();
      args.weights = weights.data();
      cuda::route(args, cuda_model::launch<RouteArgs>);
      EXPECT_EQ(ids, expected_ids) << n_experts;
      for (std::size_t i = 0; i < ids.size(); ++i)
        if (std::isnan(expected[i]))
          EXPECT_TRUE(std::isnan(weights[i])) << i;
        else
          EXPECT_NEAR(weights[i], expected[i], 2e-6 * std::abs(expected[i]) + 1e-12);
    }
}

}  // namespace
}  // namespace optiq::kernels
