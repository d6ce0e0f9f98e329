#include "optiq/kernels/attention/attention.h"

#include <cstring>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/base/parallel.h"
#include "optiq/kernels/attention/attention_fallback.h"
#include "optiq/kernels/attention/attention_primitive.h"
#include "optiq/kernels/guarded.h"
#include "optiq/kernels/segment.h"
#include "optiq/kernels/testing.h"

namespace optiq::kernels {
namespace {

namespace mx = mlx::core;
using namespace optiq::testing;

struct Shape {
  int n_heads, n_kv_heads, dim;
};

// One call with random queries, gate and caches of `spare` unused rows, which hold NaN:
// what a kernel must not read.
class Problem {
 public:
  Problem(const Shape& shape, const std::vector<Segment>& segments, FloatType type,
          std::uint32_t seed = 1)
      : shape_(shape) {
    int rows = 0;
    for (const Segment& s : segments) rows += s.tokens;
    const auto n = static_cast<std::size_t>(rows) *
                   static_cast<std::size_t>(shape.n_heads * shape.dim);
    q_ = guarded(random_floats(n, seed));
    gate_ = guarded(random_floats(n, seed + 1));
    y_.assign(n, 0.0f);
    keys_.reserve(segments.size());
    for (std::size_t i = 0; i < segments.size(); ++i) {
      const int keys = segments[i].cached + segments[i].tokens;
      keys_.push_back(cache(keys, type, seed + 10 + 2 * static_cast<unsigned>(i)));
      values_.push_back(cache(keys, type, seed + 11 + 2 * static_cast<unsigned>(i)));
      const std::int64_t head = static_cast<std::int64_t>(keys + kSpare) * shape.dim;
      segments_.push_back({segments[i].tokens, segments[i].cached,
                           KvView{keys_[i].data(), values_[i].data(), type, head,
                                  shape.dim, head, shape.dim}});
    }
    args.q = q_.data();
    args.q_row_stride = args.gate_row_stride = shape.n_heads * shape.dim;
    args.q_head_stride = args.gate_head_stride = shape.dim;
    args.y = y_.data();
    args.segments = segments_.data();
    args.n_segments = static_cast<int>(segments_.size());
    args.n_heads = shape.n_heads;
    args.n_kv_heads = shape.n_kv_heads;
    args.head_dim = shape.dim;
    args.scale = static_cast<float>(1 / std::sqrt(shape.dim));
    args.causal = true;
  }

  void use_gate() { args.gate = gate_.data(); }

  GuardedFloats run() {
    std::ranges::fill(y_, -77.0f);
    attention(args);
    return y_;
  }

  GuardedFloats expected() {
    force_simd_target(SimdTarget::kScalar);
    auto y = run();
    force_simd_target(std::nullopt);
    return y;
  }

  // A score sums D products, each rounded, so it errs by u D scale sum |q k| at most,
  // with u = eps / 2 and |q k| <= the largest |q| |k|. A weight then errs by twice
  // that, relative, and by a few eps of the exponential; weighted sums over S keys add
  // u (S + 8), relative to sum p |v| <= max |v|. Seeded normals: |x| < 5.
  double tolerance(int keys) const {
    const double u = kFloatEpsilon / 2, dim = shape_.dim;
    // sum |q k| of D products of normals: mean 2 / pi D, here bounded by D.
    const double score = u * dim * args.scale * dim;
    return 5 * (2 * score + u * (keys + 20));
  }

  AttentionArgs args{};

 private:
  static constexpr int kSpare = 3;

  // Rows past `keys` of each head are NaN, and those of the last head not there at all.
  // Bytes, in float32 or float16.
  Guarded<std::uint8_t> cache(int keys, FloatType type, std::uint32_t seed) const {
    const auto row = static_cast<std::size_t>(shape_.dim);
    const auto used = static_cast<std::size_t>(keys) * row;
    const auto head = used + kSpare * row;
    const auto values =
        random_floats(used * static_cast<std::size_t>(shape_.n_kv_heads), seed);
    const auto size = static_cast<std::size_t>(size_of(type));
    Guarded<std::uint8_t> bytes(
        (head * static_cast<std::size_t>(shape_.n_kv_heads) - kSpare * row) * size,
        0xff);
    for (std::size_t i = 0; i < values.size(); ++i) {
      std::uint8_t* to = bytes.data() + (i / used * head + i % used) * size;
      const std::uint16_t half = float_to_f16(values[i]);
      if (type == FloatType::kF32)
        std::memcpy(to, &values[i], 4);
      else
        std::memcpy(to, &half, 2);
    }
    return bytes;
  }

  Shape shape_;
  GuardedFloats q_, gate_, y_;
  std::vector<Guarded<std::uint8_t>> keys_, values_;
  std::vector<AttentionSegment> segments_;
};

int longest(const std::vector<Segment>& segments) {
  int keys = 0;
  for (const Segment& s : segments) keys = std::max(keys, s.cached + s.tokens);
  return keys;
}

void expect_agreement(const Shape& shape, const std::vector<Segment>& segments,
                      int window = 0, bool causal = true) {
  SCOPED_TRACE(::testing::Message() << shape.n_heads << "/" << shape.n_kv_heads << " x "
                                    << shape.dim << " window " << window);
  for (FloatType type : {FloatType::kF32, FloatType::kF16}) {
    Problem problem(shape, segments, type);
    problem.args.window = window;
    problem.args.causal = causal;
    if (type == FloatType::kF16) problem.use_gate();
    const auto expected = problem.expected();
    for_each_simd_target([&] {
      EXPECT_LE(max_abs_difference(problem.run(), expected),
                problem.tolerance(longest(segments)));
    });
  }
}

TEST(Attention, EveryTargetAgreesWithTheReferenceForEveryHeadDim) {
  for (int dim : {1, 8, 24, 40, 64, 72, 80, 96, 128, 256, 512, 1024})
    expect_agreement({2, 1, dim}, {{5, 0}, {1, 70}, {33, 60}});
}

TEST(Attention, EveryTargetAgreesWithTheReferenceForEveryGroupSize) {
  for (int group : {1, 2, 3, 4, 5, 6, 7, 8, 13, 100})
    expect_agreement({group * 2, 2, 32}, {{1, 0}, {1, 200}, {4, 77}, {50, 20}});
}

TEST(Attention, EveryTargetAgreesWithTheReferenceAcrossChunks) {
  expect_agreement({4, 2, 64}, {{1, 511}, {1, 512}, {8, 1300}, {130, 900}, {1, 0}});
}

TEST(Attention, EveryTargetAgreesWithTheReferenceForEveryWindow) {
  for (int window : {1, 2, 63, 64, 65, 511, 512, 600, 5000})
    expect_agreement({3, 1, 32}, {{1, 700}, {90, 0}, {70, 600}, {8, 1024}}, window);
}

TEST(Attention, EveryTargetAgreesWithTheReferenceWithoutACausalMask) {
  expect_agreement({4, 2, 48}, {{70, 0}, {1, 0}, {9, 600}}, 0, false);
  expect_agreement({4, 2, 48}, {{70, 0}, {9, 600}}, 17, false);
}

TEST(Attention, HasNothingToDoForSegmentsWithoutTokens) {
  expect_agreement({2, 1, 16}, {{0, 5}, {3, 0}, {0, 0}});
}

TEST(Attention, KeepsLargeScoresFinite) {
  Problem problem({2, 1, 64}, {{40, 100}}, FloatType::kF32);
  problem.args.scale = 50.0f;  // scores of some hundreds
  for_each_simd_target([&] {
    for (float value : problem.run()) EXPECT_LT(std::abs(value), 5.0f);
  });
}

// Rows of a sequence, one call a row, against the same rows in one call.
TEST(Attention, GivesTheSameBitsRowByRowAsInOneCall) {
  for (const Shape& shape : {Shape{2, 1, 128}, {3, 1, 80}, {4, 4, 40}})
    for (FloatType type : {FloatType::kF32, FloatType::kF16})
      for (int window : {0, 37, 530}) {
        SCOPED_TRACE(::testing::Message() << shape.dim << " window " << window);
        const int cached = 1000, tokens = 70;
        Problem problem(shape, {{tokens, cached}}, type);
        problem.args.window = window;
        for_each_simd_target([&] {
          if (simd_target() == SimdTarget::kScalar) return;  // splits in other places
          const auto together = problem.run();
          const AttentionArgs whole = problem.args;
          GuardedFloats alone(together.size());
          const int width = shape.n_heads * shape.dim;
          for (int t = 0; t < tokens; ++t) {
            AttentionSegment segment = whole.segments[0];
            segment.tokens = 1;
            segment.cached = cached + t;
            AttentionArgs one = whole;
            one.q += static_cast<std::int64_t>(t) * width;
            one.y = alone.data() + static_cast<std::ptrdiff_t>(t) * width;
            one.segments = &segment;
            attention(one);
          }
          EXPECT_EQ(max_abs_difference(alone, together), 0.0);
        });
      }
}

TEST(Attention, GivesTheSameBitsOnAnyNumberOfThreads) {
  Problem problem({4, 2, 64}, {{1, 3000}, {100, 700}, {5, 2000}}, FloatType::kF16);
  const int before = thread_count();
  const auto expected = problem.run();
  for (int threads : {1, 2, 5}) {
    set_thread_count(threads);
    EXPECT_EQ(max_abs_difference(problem.run(), expected), 0.0) << threads;
  }
  set_thread_count(before);
}

TEST(Attention, KeepsNotANumberInItsSequence) {
  Problem problem({2, 1, 32}, {{20, 100}, {1, 600}, {3, 0}}, FloatType::kF32);
  for_each_simd_target([&] {
    const auto clean = problem.run();
    auto* keys = static_cast<float*>(const_cast<void*>(problem.args.segments[1].kv.k));
    const float saved = keys[0];
    keys[0] = std::nanf("");
    const auto dirty = problem.run();
    keys[0] = saved;
    for (std::size_t i = 0; i < dirty.size(); ++i) {
      if (i / 64 == 20)
        EXPECT_TRUE(std::isnan(dirty[i])) << i;
      else
        EXPECT_EQ(dirty[i], clean[i]) << i;
    }
  });
}

TEST(Attention, KeepsWhatIsNotFiniteFromRowsThatDoNotSeeIt) {
  for (const Shape& shape : {Shape{2, 1, 32}, {6, 2, 24}})
    for (int window : {0, 40})
      for (float bad : {std::nanf(""), HUGE_VALF}) {
        const int cached = 100, tokens = 90, at = cached + 50;
        Problem problem(shape, {{tokens, cached}}, FloatType::kF32);
        problem.args.window = window;
        for_each_simd_target([&] {
          const auto clean = problem.run();
          const KvView& kv = problem.args.segments[0].kv;
          for (const void* array : {kv.k, kv.v}) {
            float& value =
                static_cast<float*>(const_cast<void*>(array))[at * shape.dim];
            const float saved = std::exchange(value, bad);
            const auto dirty = problem.run();
            value = saved;
            for (std::size_t i = 0; i < dirty.size(); ++i) {
              const int row = static_cast<int>(i) / (shape.n_heads * shape.dim);
              const int position = cached + row;
              if (position < at || (window > 0 && position >= at + window))
                ASSERT_EQ(dirty[i], clean[i]) << i;
            }
            if (array == kv.v)
              EXPECT_FALSE(std::isfinite(
                  dirty[static_cast<std::size_t>(50 * shape.n_heads * shape.dim)]));
          }
        });
      }
}

// A call on MLX: a batch of two sequences.
struct Call {
  std::vector<Segment> segments{{3, 0}, {5, 0}};
  mx::array q = random({8, 4, 16}, 1);
  mx::array k = random({8, 2, 16}, 2);
  mx::array v = random({8, 2, 16}, 3);
  mx::array gate = random({8, 4, 16}, 4);

  static mx::array random(const mx::Shape& shape, std::uint32_t seed) {
    std::size_t n = 1;
    for (int size : shape) n *= static_cast<std::size_t>(size);
    return mx::array(random_floats(n, seed).data(), shape);
  }

  AttentionOptions options() const {
    AttentionOptions options;
    options.scale = 0.25f;
    options.window = 4;
    options.gate = gate;
    return options;
  }
};

bool same(const mx::array& a, const mx::array& b, double tolerance) {
  return mx::allclose(mx::astype(a, mx::float32), mx::astype(b, mx::float32), tolerance,
                      tolerance)
      .item<bool>();
}

TEST(AttentionPrimitive, HasTheGradientOfItsDefinition) {
  const Call call;
  const std::vector<Segment>& segments = call.segments;
  AttentionOptions options = call.options();
  const auto ours = [&](const std::vector<mx::array>& in) {
    options.gate = in[3];
    return mx::sum(mx::square(attention(in[0], in[1], in[2], segments, options)));
  };
  const auto plain = [&](const std::vector<mx::array>& in) {
    return mx::sum(
        mx::square(attention_fallback(in, segments, 0.25f, 4, true, true)[0]));
  };
  const std::vector<mx::array> inputs{call.q, call.k, call.v, call.gate};
  EXPECT_TRUE(same(ours(inputs), plain(inputs), 1e-5));
  const auto a = mx::grad(ours, {0, 1, 2, 3})(inputs);
  const auto b = mx::grad(plain, {0, 1, 2, 3})(inputs);
  for (std::size_t i = 0; i < 4; ++i) EXPECT_TRUE(same(a[i], b[i], 1e-4)) << i;
}

TEST(AttentionPrimitive, RefusesWhatDoesNotGoTogether) {
  const Call call;
  const AttentionOptions options = call.options();
  const auto refused = [&](const std::vector<Segment>& segments) {
    EXPECT_THROW(attention(call.q, call.k, call.v, segments, options),
                 std::invalid_argument);
  };
  refused({{9, 0}});
  refused({{3, 0}, {6, 0}});
  refused({{9, 0}, {-1, 0}});
  refused({{3, 2}, {5, 0}});  // cached tokens without a cache
  EXPECT_THROW(attention(call.q, call.k, call.gate, call.segments, options),
               std::invalid_argument);
}

}  // namespace
}  // namespace optiq::kernels
