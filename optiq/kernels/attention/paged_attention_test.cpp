#include <cmath>
#include <cstring>
#include <memory>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/base/parallel.h"
#include "optiq/kernels/attention/attention_fallback.h"
#include "optiq/kernels/attention/attention_primitive.h"
#include "optiq/kernels/attention/paged_testing.h"

namespace optiq::kernels {
namespace {

namespace mx = mlx::core;
using namespace optiq::testing;

void expect_agreement(PagedProblem& problem) {
  const auto expected = problem.expected();
  std::vector<float> first;
  for_each_simd_target([&] {
    EXPECT_LE(max_abs_difference(problem.run(Activation::kExact), expected),
              problem.exact_tolerance());
    if (simd_target() == SimdTarget::kScalar) return;  // does not round
    const auto rounded = problem.run(Activation::kInt8);
    EXPECT_LE(rms_difference(rounded, expected), problem.rounding_rms());
    // The same whole numbers everywhere, but where a rotation's own rounding moves a
    // query over an edge.
    if (first.empty()) first = rounded;
    const bool rotated = problem.list[0].pages->transform->k_signs;
    EXPECT_LE(rms_difference(rounded, first),
              rotated ? 0.02 * problem.rounding_rms() : problem.exact_tolerance());
  });
}

TEST(PagedAttention, EveryTargetAgreesWithTheReferenceForEveryFormat) {
  for (const KvKindOfLayer& kind : every_kind()) {
    SCOPED_TRACE(describe(kind));
    PagedProblem problem({4, 2, 128}, {{1, 150}, {5, 64}, {2, 0}}, kind, 1);
    expect_agreement(problem);
  }
}

TEST(PagedAttention, EveryTargetAgreesWithTheReferenceForEveryHeadDim) {
  for (int dim : {8, 24, 40, 64, 80, 96, 256, 1000})
    for (const KvKindOfLayer& kind : mixed_kinds()) {
      SCOPED_TRACE(describe(kind) + " " + std::to_string(dim));
      PagedProblem problem({2, 1, dim}, {{3, 70}, {20, 3}}, kind);
      expect_agreement(problem);
    }
}

TEST(PagedAttention, EveryTargetAgreesWithTheReferenceForAnyRowsAndWindow) {
  for (const KvKindOfLayer& kind : mixed_kinds())
    for (int window : {0, 1, 50, 200})
      for (int group : {1, 3, 7}) {
        SCOPED_TRACE(describe(kind) + " " + std::to_string(window));
        PagedProblem problem({group, 1, 64}, {{30, 40}, {8, 600}, {0, 5}, {1, 511}},
                             kind, 1);
        problem.args.window = window;
        problem.args.gate = problem.gate.data();
        expect_agreement(problem);
      }
}

// Rows of a sequence, one call a row over pages that hold later tokens already, against
// the same rows in one call.
TEST(PagedAttention, GivesTheSameBitsRowByRowAsInOneCall) {
  for (const KvKindOfLayer& kind : every_kind())
    for (int window : {0, 90}) {
      SCOPED_TRACE(describe(kind) + " window " + std::to_string(window));
      const int cached = 480, tokens = 50;
      PagedProblem problem({4, 2, 96}, {{tokens, cached}}, kind, 1);
      problem.args.window = window;
      for_each_simd_target([&] {
        if (simd_target() == SimdTarget::kScalar) return;  // splits in other places
        for (Activation activation : {Activation::kInt8, Activation::kExact}) {
          const auto together = problem.run(activation);
          std::vector<float> alone(together.size());
          for (int t = 0, n = 1; t < tokens; t += n, n = n % 3 + 1) {
            AttentionSegment segment = problem.list[0];
            segment.tokens = n = std::min(n, tokens - t);
            segment.cached = cached + t;
            AttentionArgs one = problem.args;
            const std::int64_t at = static_cast<std::int64_t>(t) * 4 * 96;
            one.q += at;
            one.y = alone.data() + at;
            one.segments = &segment;
            attention(one);
          }
          EXPECT_EQ(max_abs_difference(alone, together), 0.0);
        }
      });
    }
}

TEST(PagedAttention, GivesTheSameBitsOnAnyNumberOfThreads) {
  for (const KvKindOfLayer& kind : mixed_kinds()) {
    PagedProblem problem({4, 2, 64}, {{1, 1500}, {100, 700}, {5, 600}}, kind, 2);
    const int before = thread_count();
    const auto expected = problem.run(Activation::kInt8);
    for (int threads : {1, 2, 5}) {
      set_thread_count(threads);
      EXPECT_EQ(max_abs_difference(problem.run(Activation::kInt8), expected), 0.0);
    }
    set_thread_count(before);
  }
}

// Tokens behind the length are stale: here another sequence's, with NaN among them.
TEST(PagedAttention, DoesNotSeeStaleTokens) {
  for (const KvKindOfLayer& kind : every_kind()) {
    SCOPED_TRACE(describe(kind));
    PagedProblem problem({2, 1, 64}, {{3, 130}}, kind, 1);
    KvData other(192, 1, 64, 99);
    for (std::size_t i = 0; i < other.k.size(); i += 7 * 64)
      other.k[i] = other.v[i] = std::nanf("");
    for_each_simd_target([&] {
      // Floats weigh stale values by zero, which NaN survives: codes do not.
      if (simd_target() == SimdTarget::kScalar) return;
      for (Activation activation : {Activation::kInt8, Activation::kExact}) {
        const auto clean = problem.run(activation);
        PagedSequence pages(1, 64, kind, 1, 192, problem.data[0].mean);
        pages.append(other, 0, 192);
        pages.append(problem.data[0], 0, 133);
        problem.list[0].pages = &pages.pages;
        EXPECT_EQ(max_abs_difference(problem.run(activation), clean), 0.0);
        problem.list[0].pages = &problem.sequences[0]->pages;
      }
    });
  }
}

TEST(PagedAttention, KeepsNotANumberInItsSequence) {
  for (const KvFormat& format : all_kv_formats())
    for (bool keys : {false, true}) {
      SCOPED_TRACE(optiq::describe(format));
      PagedProblem problem({2, 1, 32}, {{20, 100}, {1, 130}, {3, 0}}, both(format));
      for_each_simd_target([&] {
        const auto clean = problem.run(Activation::kInt8);
        KvData dirty = problem.data[1];
        (keys ? dirty.k : dirty.v)[5 * 32 + 3] = std::nanf("");
        problem.sequences[1]->append(dirty, 0, 131);
        const auto y = problem.run(Activation::kInt8);
        problem.sequences[1]->append(problem.data[1], 0, 131);
        int spoiled = 0;
        for (std::size_t i = 0; i < y.size(); ++i) {
          if (i / 64 == 20)
            spoiled += std::isnan(y[i]);
          else
            EXPECT_EQ(y[i], clean[i]) << i;
        }
        EXPECT_GE(spoiled, keys ? 64 : 2);
      });
    }
}

// A sink: one key takes half of the weight, thousands share the rest, each far below a
// rounded weight's step.
TEST(PagedAttention, KeepsTheShareOfManySmallWeightsBesideALargeOne) {
  const int keys = 2048;
  for (const KvFormat& format :
       {kv_format("affine", 8, 64), kv_format("turbo", 4, 0)}) {
    PagedProblem problem({1, 1, 64}, {{1, keys - 1}}, {format, format});
    KvData data(keys, 1, 64, 3);
    std::ranges::fill(data.k, 0.0f);
    std::ranges::fill(data.v, 1.0f);
    for (std::size_t i = 0; i < 64; ++i) {
      data.k[i] = 1;
      data.v[i] = -1;
    }
    std::ranges::fill(problem.q, std::log(2047.0f) * 8 / 64);
    problem.sequences[0]->append(data, 0, keys);
    for_each_simd_target([&] {
      // Half of -1 and half of 1; a rounded weight is off by 1 / 127 of the largest, in
      // the first block only, and float16 holds turbo's scale to 2^-11.
      for (float y : problem.run(Activation::kInt8))
        EXPECT_NEAR(y, 0, 0.5 / 127 + 1e-3);
    });
  }
}

// A call on MLX: two sequences, the second with a page in float.
struct Call {
  explicit Call(const KvKindOfLayer& kind) {
    for (std::size_t i = 0; i < 2; ++i) {
      data.emplace_back(140, 2, 48, 30 + 10 * static_cast<std::uint32_t>(i));
      auto pages = std::make_shared<PagedSequence>(2, 48, kind, static_cast<int>(i),
                                                   140, data[i].mean);
      pages->append(data[i], 0, segments[i].cached);
      kv.push_back({pages->pages, pages});
    }
    options.scale = 0.2f;
    options.window = 100;
    options.gate = gate;
    options.activation = Activation::kExact;
  }

  static mx::array random(const mx::Shape& shape, std::uint32_t seed) {
    std::size_t n = 1;
    for (int size : shape) n *= static_cast<std::size_t>(size);
    return mx::array(random_floats(n, seed).data(), shape);
  }

  std::vector<Segment> segments{{6, 62}, {1, 130}};
  std::vector<KvData> data;
  std::vector<PagedKv> kv;
  mx::array q = random({7, 4, 48}, 1), k = random({7, 2, 48}, 2),
            v = random({7, 2, 48}, 3), gate = random({7, 4, 48}, 4);
  AttentionOptions options;
};

std::shared_ptr<const PagedCall> met(const std::vector<Segment>& segments,
                                     const std::vector<PagedKv>& pages) {
  return std::make_shared<PagedCall>(PagedCall{segments, pages});
}

TEST(PagedAttentionPrimitive, AgreesWithPlainMlxOperationsOnTheDecodedPages) {
  for (const KvKindOfLayer& kind : every_kind()) {
    SCOPED_TRACE(describe(kind));
    const Call ours(kind), plain(kind);
    const mx::array y = paged_attention(ours.q, ours.k, ours.v,
                                        met(ours.segments, ours.kv), ours.options);
    const auto expected =
        paged_fallback({plain.q, plain.k, plain.v, plain.gate}, plain.segments,
                       plain.kv, 0.2f, 100, true, true);
    // Scores of some units in float32, and values below 10.
    EXPECT_TRUE(mx::allclose(y, expected[0], 1e-4, 1e-4).item<bool>());
    for (std::size_t i = 0; i < 2; ++i) {
      std::vector<float> a(140 * 48), b(a.size()), c(a.size()), d(a.size());
      const int keys = ours.segments[i].cached + ours.segments[i].tokens;
      read_from_pages(ours.kv[i].pages, {1, 0, keys, a.data(), b.data(), false});
      read_from_pages(plain.kv[i].pages, {1, 0, keys, c.data(), d.data(), false});
      EXPECT_EQ(a, c);
      EXPECT_EQ(b, d);
    }
  }
}

TEST(PagedAttentionPrimitive, GivesTheSameRowsTokenByTokenAsAtOnceWithoutACache) {
  const mx::array qkv = Call::random({90, 8, 16}, 7);
  const auto part = [&](int row, int rows, int head, int heads) {
    return mx::slice(qkv, {row, head, 0}, {row + rows, head + heads, 16});
  };
  AttentionOptions options;
  options.scale = 0.25f;
  const Segment whole{90, 0};
  const mx::array expected = attention(part(0, 90, 0, 4), part(0, 90, 4, 2),
                                       part(0, 90, 6, 2), {&whole, 1}, options);
  const auto pages = std::make_shared<PagedSequence>(
      2, 16, both(kv_float(FloatType::kF32)), 0, 90, std::vector<float>(32));
  const PagedKv kv{pages->pages, pages};
  for (int row = 0, rows = 40; row < 90; row += rows, rows = 1) {
    const Segment segment{rows, row};
    const mx::array y =
        paged_attention(part(row, rows, 0, 4), part(row, rows, 4, 2),
                        part(row, rows, 6, 2), met({segment}, {kv}), options);
    EXPECT_TRUE(
        mx::array_equal(y, mx::slice(expected, {row, 0, 0}, {row + rows, 4, 16}))
            .item<bool>())
        << row;
  }
}

// The words that a CUDA device's kernels read: of each sequence four, then its pages'
// addresses, in room for as many as asked for.
TEST(PageTable, SaysWhereTheRowsAndPagesOfEachSequenceAre) {
  Call call(both(kv_format("affine", 4, 32)));
  PageTable table = make_page_table(call.segments, call.kv, 4);
  EXPECT_EQ(table.room, 4);
  const auto expect = [&](const std::vector<Segment>& segments) {
    const auto* words = table.words.data<std::uint32_t>();
    std::uint32_t row = 0;
    for (std::uint32_t i = 0; i < 2; ++i) {
      const std::uint32_t* rows = words + 4 * i;
      const auto tokens = static_cast<std::uint32_t>(segments[i].tokens);
      EXPECT_EQ(rows[0], row);
      EXPECT_EQ(rows[1], tokens);
      EXPECT_EQ(rows[2], static_cast<std::uint32_t>(segments[i].cached));
      EXPECT_EQ(rows[3], 4 * i);
      row += tokens;
      const int pages = (segments[i].cached + segments[i].tokens + 63) / 64;
      for (int page = 0; page < pages; ++page) {
        std::byte* address = nullptr;
        std::memcpy(&address,
                    words + 8 + 2 * (4 * i + static_cast<std::uint32_t>(page)),
                    sizeof address);
        EXPECT_EQ(address, call.kv[i].pages.pages[page]);
      }
    }
  };
  expect(call.segments);
  const std::vector<Segment> next{{1, 68}, {1, 131}};
  EXPECT_TRUE(fits(table, next));
  rewrite_page_table(table, next, call.kv);
  expect(next);
  EXPECT_FALSE(fits(table, std::vector<Segment>{{1, 256}, {1, 131}}));
  EXPECT_FALSE(fits(table, std::vector<Segment>{{1, 68}}));
}

TEST(PagedAttentionPrimitive, RefusesWhatDoesNotGoTogether) {
  Call call(both(kv_format("affine", 4, 32)));
  const auto refused = [&](const std::vector<Segment>& segments) {
    EXPECT_THROW(
        paged_attention(call.q, call.k, call.v, met(segments, call.kv), call.options),
        std::invalid_argument);
  };
  refused({{7, 0}});
  refused({{6, 62}, {1, 192}});
  refused({{6, 62}, {2, 130}});
  EXPECT_THROW(paged_attention(call.q, call.gate, call.gate,
                               met(call.segments, call.kv), call.options),
               std::invalid_argument);
  call.kv[1].pages.float_layout = nullptr;
  refused(call.segments);
}

}  // namespace
}  // namespace optiq::kernels
