#include "optiq/kernels/attention/attention_backward.h"

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/kernels/attention/attention_primitive.h"
#include "optiq/kernels/testing.h"

namespace optiq::kernels {
namespace {

namespace mx = mlx::core;
using namespace optiq::testing;

struct Case {
  int n_heads, n_kv_heads, head_dim;
  std::vector<int> lengths;
  int window;
  bool causal, gated;
};

struct Gradients {
  std::vector<float> q, k, v, gate;
};

Gradients run(const Case& c, std::uint32_t seed) {
  int T = 0;
  for (int n : c.lengths) T += n;
  const auto query = static_cast<std::size_t>(T * c.n_heads * c.head_dim);
  const auto key = static_cast<std::size_t>(T * c.n_kv_heads * c.head_dim);
  const auto q = random_floats(query, seed), k = random_floats(key, seed + 1),
             v = random_floats(key, seed + 2), gate = random_floats(query, seed + 3),
             dy = random_floats(query, seed + 4);
  Gradients g{std::vector<float>(query), std::vector<float>(key),
              std::vector<float>(key), std::vector<float>(query)};
  attention_backward({q.data(), k.data(), v.data(), c.gated ? gate.data() : nullptr,
                      dy.data(), g.q.data(), g.k.data(), g.v.data(), g.gate.data(),
                      c.lengths.data(), static_cast<int>(c.lengths.size()), c.n_heads,
                      c.n_kv_heads, c.head_dim, 0.3f, c.window, c.causal});
  return g;
}

TEST(AttentionBackward, EveryTargetAgreesWithTheDefinition) {
  for (const Case& c : {Case{1, 1, 1, {1}, 0, true, false},
                        {4, 2, 24, {5, 0, 70}, 0, true, true},
                        {6, 2, 64, {33, 100}, 20, true, false},
                        {2, 1, 40, {19}, 0, false, true},
                        {2, 2, 128, {65}, 7, true, true}}) {
    force_simd_target(SimdTarget::kScalar);
    const Gradients expected = run(c, 1);
    for_each_simd_target([&] {
      const Gradients g = run(c, 1);
      // Sums over the head's values and over keys, of values of a few units.
      const double tolerance = 400 * kFloatEpsilon * std::sqrt(c.head_dim);
      EXPECT_LE(max_abs_difference(g.q, expected.q), tolerance);
      EXPECT_LE(max_abs_difference(g.k, expected.k), 4 * tolerance);
      EXPECT_LE(max_abs_difference(g.v, expected.v), 4 * tolerance);
      EXPECT_LE(max_abs_difference(g.gate, expected.gate), tolerance);
    });
  }
}

TEST(AttentionBackward, ThePrimitivesGradientIsThatOfPlainOperations) {
  const Segment segments[] = {{37, 0}, {5, 0}};
  const auto of = [](std::uint32_t seed, int heads) {
    return mx::array(random_floats(std::size_t(42 * heads * 16), seed).data(),
                     {42, heads, 16});
  };
  for (const bool gated : {false, true}) {
    AttentionOptions options;
    options.scale = 0.25f;
    const auto ours = [&](const std::vector<mx::array>& in) {
      AttentionOptions o = options;
      if (gated) o.gate = in[3];
      return mx::sum(mx::square(attention(in[0], in[1], in[2], segments, o)));
    };
    const auto one = [&](const std::vector<mx::array>& in, int begin, int end) {
      const auto rows = [&](const mx::array& x) {
        return mx::transpose(mx::slice(x, {begin, 0, 0}, {end, x.shape(1), 16}),
                             {1, 0, 2});
      };
      const mx::array q = rows(in[0]), k = mx::repeat(rows(in[1]), 2, 0),
                      v = mx::repeat(rows(in[2]), 2, 0);
      const mx::array seen = mx::tril(mx::ones({end - begin, end - begin}), 0);
      const mx::array s = mx::matmul(q, mx::transpose(k, {0, 2, 1})) * 0.25f;
      return mx::matmul(
          mx::softmax(mx::where(seen > mx::array(0.0f), s, mx::array(-1e30f)), -1), v);
    };
    const auto plain = [&](const std::vector<mx::array>& in) {
      mx::array y = mx::transpose(mx::concatenate({one(in, 0, 37), one(in, 37, 42)}, 1),
                                  {1, 0, 2});
      if (gated) y = y * mx::sigmoid(in[3]);
      return mx::sum(mx::square(y));
    };
    const std::vector<mx::array> in{of(1, 4), of(2, 2), of(3, 2), of(4, 4)};
    const std::vector<int> all =
        gated ? std::vector<int>{0, 1, 2, 3} : std::vector<int>{0, 1, 2};
    const auto g = mx::grad(ours, all)(in), p = mx::grad(plain, all)(in);
    for (std::size_t i = 0; i < all.size(); ++i)
      EXPECT_TRUE(mx::allclose(g[i], p[i], 1e-3, 1e-3).item<bool>()) << i;
  }
}

}  // namespace
}  // namespace optiq::kernels
