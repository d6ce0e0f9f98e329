#include <gtest/gtest.h>

#include "optiq/kernels/attention/attention_cuda.h"
#include "optiq/kernels/attention/paged_testing.h"
#include "optiq/kernels/kv_page/cuda_testing.h"

namespace optiq::kernels {
namespace {

using namespace optiq::testing;

// A problem's pages and queries on the device.
class DeviceProblem {
 public:
  explicit DeviceProblem(PagedProblem& problem)
      : problem_(problem),
        pages_(pointers(problem), rows(problem)),
        q_(problem.q.data(), problem.q.size()),
        k_(new_rows(problem, true)),
        v_(new_rows(problem, false)),
        gate_(problem.gate.data(), problem.gate.size()),
        y_(nullptr, problem.q.size()) {}

  // `enters`: the keys and values of the call's own rows, too.
  std::vector<float> run(Activation activation, bool enters = false) {
    const AttentionArgs& host = problem_.args;
    cuda::EnteringHeads heads;
    heads.q = {q_.data(), host.q_row_stride, host.q_head_stride};
    if (enters) heads = with_keys(heads);
    cuda::PagedAttentionArgs args{
        pages_.form(),
        pages_.batch(),
        heads,
        {host.gate ? gate_.data() : nullptr, host.gate_row_stride,
         host.gate_head_stride},
        y_.data(),
        static_cast<int>(problem_.q.size() / host.q_row_stride),
        host.n_heads,
        host.scale,
        host.window,
        host.causal,
        activation,
        0,
        0,
        false,
        false};
    for (const AttentionSegment& s : problem_.list) {
      args.most_tokens = std::max(args.most_tokens, s.tokens);
      args.most_keys = std::max(args.most_keys, s.cached + s.tokens);
      (s.tokens > cuda::kFewTokens ? args.some_many : args.some_few) = true;
    }
    const DeviceBuffer<std::byte> scratch(nullptr, cuda::attention_scratch_bytes(args));
    cuda::attention(args, scratch.data(), launch_now);
    return y_.to_host();
  }

  // Keys and values enter by themselves.
  void enter() {
    cuda::enter_pages(pages_.form(), pages_.batch(),
                      static_cast<int>(problem_.q.size() / problem_.args.q_row_stride),
                      with_keys({}), launch_now);
  }

  std::vector<std::byte> pages() const { return pages_.to_host(); }

 private:
  cuda::EnteringHeads with_keys(cuda::EnteringHeads heads) const {
    const int dim = problem_.shape.dim, width = problem_.shape.n_kv_heads * dim;
    heads.k = {k_.data(), width, dim};
    heads.v = {v_.data(), width, dim};
    return heads;
  }
  static DeviceBuffer<float> new_rows(const PagedProblem& problem, bool keys) {
    std::vector<float> all;
    for (std::size_t i = 0; i < problem.list.size(); ++i) {
      const KvData& data = problem.data[i];
      const std::vector<float>& from = keys ? data.k : data.v;
      all.insert(
          all.end(),
          from.begin() + problem.list[i].cached * data.n_kv_heads * data.head_dim,
          from.end());
    }
    return {all.data(), all.size()};
  }
  static std::vector<PagedSequence*> pointers(const PagedProblem& problem) {
    std::vector<PagedSequence*> all;
    for (const auto& s : problem.sequences) all.push_back(s.get());
    return all;
  }
  static std::vector<cuda::PagedRows> rows(const PagedProblem& problem) {
    std::vector<cuda::PagedRows> all;
    int row = 0;
    for (const AttentionSegment& s : problem.list) {
      all.push_back({row, s.tokens, s.cached, 0});
      row += s.tokens;
    }
    return all;
  }

  PagedProblem& problem_;
  DevicePages pages_;
  DeviceBuffer<float> q_, k_, v_, gate_, y_;
};

std::vector<KvKindOfLayer> kinds() {
  std::vector<KvKindOfLayer> all;
  for (const KvKindOfLayer& kind : every_kind())
    if (kind.k.kind != KvKind::kTurboQjl) all.push_back(kind);
  return all;
}

// Queries, keys and values, and weights are rounded to 11 bits: each product of a
// score, and of a sum, by 2^-11 at most twice, of random sign. Keys, with their means,
// have |k|^2 = 2 dim, queries |q|^2 = dim, so a score is off by 2^-11 scale sqrt(2 dim)
// in the mean square, which moves y by as much of the values' spread, 1.
double half_rms(const PagedProblem& problem) {
  return 0x1p-11 * (problem.args.scale * std::sqrt(2.0 * problem.shape.dim) + 2);
}

void expect_device_agreement(PagedProblem& problem) {
  const auto expected = problem.expected();
  DeviceProblem device(problem);
  EXPECT_LE(max_abs_difference(device.run(Activation::kExact), expected),
            problem.exact_tolerance());
  const auto rounded = device.run(Activation::kInt8);
  EXPECT_LE(rms_difference(rounded, expected), half_rms(problem));
  EXPECT_LE(max_abs_difference(rounded, expected), 12 * half_rms(problem));
}

TEST(AttentionCuda, AgreesWithTheReferenceForEveryFormat) {
  for (const KvKindOfLayer& kind : kinds()) {
    SCOPED_TRACE(describe(kind));
    PagedProblem problem({4, 2, 128}, {{1, 150}, {5, 64}, {2, 0}, {40, 100}}, kind, 1);
    expect_device_agreement(problem);
  }
}

TEST(AttentionCuda, AgreesWithTheReferenceForEveryHeadDim) {
  for (int dim : {8, 40, 64, 80, 96, 128, 256, 512, 1000})
    for (const KvKindOfLayer& kind : mixed_kinds()) {
      SCOPED_TRACE(describe(kind) + " " + std::to_string(dim));
      PagedProblem problem({2, 1, dim}, {{3, 70}, {20, 3}}, kind);
      expect_device_agreement(problem);
    }
}

TEST(AttentionCuda, AgreesWithTheReferenceForAnyRowsAndWindow) {
  for (const KvKindOfLayer& kind : mixed_kinds())
    for (int window : {0, 1, 50, 200})
      for (int group : {1, 3, 8}) {
        SCOPED_TRACE(describe(kind) + " " + std::to_string(window));
        PagedProblem problem({group, 1, 64}, {{30, 40}, {8, 600}, {0, 5}, {1, 511}},
                             kind, 1);
        problem.args.window = window;
        problem.args.gate = problem.gate.data();
        expect_device_agreement(problem);
      }
}

TEST(AttentionCuda, SeesTheWholeContextWithoutACausalMask) {
  for (const KvKindOfLayer& kind : mixed_kinds()) {
    PagedProblem problem({4, 2, 64}, {{9, 60}, {70, 30}}, kind);
    problem.args.causal = false;
    expect_device_agreement(problem);
  }
}

// Whether a kernel before enters keys and values, or the blocks that meet them, pages
// are the same to the bit, and y is what it is over pages that have them.
TEST(AttentionCuda, EntersKeysAndValuesOfItsRows) {
  const std::vector<Segment> calls[] = {{{1, 150}, {1, 0}, {2, 63}, {1, 2000}},
                                        {{9, 100}, {1, 127}},
                                        {{20, 50}, {1, 64}}};
  for (const KvKindOfLayer& kind : kinds())
    for (const auto& segments : calls) {
      SCOPED_TRACE(describe(kind));
      PagedProblem problem({8, 2, 128}, segments, kind, 1);
      const auto expected = problem.expected();
      for (std::size_t i = 0; i < segments.size(); ++i) {
        const KvData other(segments[i].cached + segments[i].tokens, 2, 128, 99);
        problem.sequences[i]->append(other, segments[i].cached, segments[i].tokens);
      }
      DeviceProblem alone(problem);
      alone.enter();
      for (Activation activation : {Activation::kInt8, Activation::kExact}) {
        DeviceProblem device(problem);
        const auto y = device.run(activation, true);
        EXPECT_EQ(device.pages(), alone.pages());
        // A code may have been rounded the other way.
        EXPECT_LE(rms_difference(y, expected), 2 * half_rms(problem));
      }
    }
}

// Chunks of several lengths, of which a warp takes keys more than once, in one call.
TEST(AttentionCuda, AgreesWithTheReferenceBehindALongContext) {
  for (const KvFormat& format : {kv_format("affine", 4, 64), kv_format("turbo", 4, 0),
                                 kv_float(FloatType::kBF16), kv_float(FloatType::kF16)})
    for (const int dim : {64, 128, 256}) {
      SCOPED_TRACE(optiq::describe(format) + " " + std::to_string(dim));
      PagedProblem problem({2, 1, dim},
                           {{2, 17000}, {1, 16383}, {33, 700}, {1, 0}, {3, 5000}},
                           {format, format, is_rotated(format)});
      expect_device_agreement(problem);
      problem.args.window = 1500;
      expect_device_agreement(problem);
    }
}

// Which sequences share a call changes no bit.
TEST(AttentionCuda, GivesASequenceTheSameBitsInEveryCompany) {
  for (const KvKindOfLayer& kind : mixed_kinds()) {
    PagedProblem all({4, 2, 128}, {{1, 1500}, {100, 700}, {5, 600}}, kind, 2);
    const auto together = DeviceProblem(all).run(Activation::kInt8);
    PagedProblem one({4, 2, 128}, {{1, 1500}}, kind, 2);
    one.q.assign(all.q.begin(), all.q.begin() + 4 * 128);
    one.args.q = one.q.data();
    const auto alone = DeviceProblem(one).run(Activation::kInt8);
    for (std::size_t i = 0; i < alone.size(); ++i)
      ASSERT_EQ(alone[i], together[i]) << i;
  }
}

// Tokens behind the length are stale: here another sequence's, with NaN among them.
TEST(AttentionCuda, DoesNotSeeStaleTokens) {
  for (const KvKindOfLayer& kind : kinds()) {
    SCOPED_TRACE(describe(kind));
    PagedProblem problem({2, 1, 64}, {{3, 130}, {30, 100}}, kind, 1);
    for (Activation activation : {Activation::kInt8, Activation::kExact}) {
      const auto clean = DeviceProblem(problem).run(activation);
      KvData other(62, 1, 64, 99);
      for (std::size_t i = 0; i < other.k.size(); i += 7 * 64)
        other.k[i] = other.v[i] = std::nanf("");
      for (auto& sequence : problem.sequences) {
        KvRows rows = other.rows(0, 59);
        rows.first = 133;
        append_to_pages(rows, sequence->pages);
      }
      EXPECT_EQ(max_abs_difference(DeviceProblem(problem).run(activation), clean), 0.0);
    }
  }
}

TEST(AttentionCuda, KeepsNotANumberInItsSequence) {
  for (const KvKindOfLayer& kind : kinds())
    for (bool keys : {false, true}) {
      SCOPED_TRACE(describe(kind));
      PagedProblem problem({2, 1, 64}, {{20, 100}, {1, 130}, {3, 0}}, kind);
      const auto clean = DeviceProblem(problem).run(Activation::kInt8);
      KvData dirty = problem.data[1];
      (keys ? dirty.k : dirty.v)[5 * 64 + 3] = std::nanf("");
      problem.sequences[1]->append(dirty, 0, 131);
      const auto y = DeviceProblem(problem).run(Activation::kInt8);
      int spoiled = 0;
      for (std::size_t i = 0; i < y.size(); ++i) {
        if (i / 128 == 20)
          spoiled += std::isnan(y[i]);
        else
          EXPECT_EQ(y[i], clean[i]) << i;
      }
      EXPECT_GE(spoiled, keys ? 128 : 2);
    }
}

}  // namespace
}  // namespace optiq::kernels
