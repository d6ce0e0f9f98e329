// Calls of attention over pages, for tests.
#pragma once
#include <cmath>
#include <memory>
#include <string>

#include "optiq/kernels/attention/attention.h"
#include "optiq/kernels/kv_page/testing.h"
#include "optiq/kernels/segment.h"

namespace optiq::testing {

using kernels::Activation;
using kernels::AttentionArgs;
using kernels::AttentionSegment;
using kernels::Segment;

struct HeadShape {
  int n_heads, n_kv_heads, dim;
};

inline KvKindOfLayer both(const KvFormat& format) {
  return {format, format, is_rotated(format), /*centred=*/true, /*scaled=*/true};
}

// Keys and values apart, some of them in float.
inline std::vector<KvKindOfLayer> mixed_kinds() {
  return {{kv_format("affine", 8, 64), kv_format("turbo", 4, 0), true, true},
          {kv_format("turbo", 3, 0), kv_format("affine", 4, 32)},
          {kv_float(FloatType::kF16), kv_format("affine", 4, 128)},
          {kv_format("affine", 6, 32), kv_float(FloatType::kBF16), true, false}};
}

inline std::vector<KvKindOfLayer> every_kind() {
  std::vector<KvKindOfLayer> all = mixed_kinds();
  for (const KvFormat& format : all_kv_formats()) all.push_back(both(format));
  return all;
}

inline std::string describe(const KvKindOfLayer& kind) {
  return optiq::describe(kind.k) + " / " + optiq::describe(kind.v);
}

// One call over pages that are filled; what lies behind the last token is NaN.
class PagedProblem {
 public:
  PagedProblem(const HeadShape& shape, const std::vector<Segment>& segments,
               const KvKindOfLayer& kind, int float_pages = 0)
      : shape(shape) {
    int rows = 0;
    std::uint32_t seed = 20;
    for (const Segment& s : segments) {
      const int keys = s.cached + s.tokens;
      data.emplace_back(keys, shape.n_kv_heads, shape.dim, seed += 10);
      sequences.push_back(std::make_unique<PagedSequence>(
          shape.n_kv_heads, shape.dim, kind, float_pages, keys, data.back().mean));
      sequences.back()->append(data.back(), 0, keys);
      list.push_back({s.tokens, s.cached, {}, &sequences.back()->pages});
      rows += s.tokens;
    }
    const auto n = static_cast<std::size_t>(rows * shape.n_heads * shape.dim);
    q = random_floats(n, 1);
    gate = random_floats(n, 2);
    y.resize(n);
    args.q = q.data();
    args.q_row_stride = args.gate_row_stride = shape.n_heads * shape.dim;
    args.q_head_stride = args.gate_head_stride = shape.dim;
    args.y = y.data();
    args.segments = list.data();
    args.n_segments = static_cast<int>(list.size());
    args.n_heads = shape.n_heads;
    args.n_kv_heads = shape.n_kv_heads;
    args.head_dim = shape.dim;
    args.scale = static_cast<float>(1 / std::sqrt(shape.dim));
    args.causal = true;
  }

  std::vector<float> run(Activation activation) {
    args.activation = activation;
    std::ranges::fill(y, -77.0f);
    kernels::attention(args);
    return y;
  }

  // The definition in double, over the pages as they are.
  std::vector<float> expected() {
    force_simd_target(SimdTarget::kScalar);
    auto result = run(Activation::kExact);
    force_simd_target(std::nullopt);
    return result;
  }

  // As in attention_test.cpp, where it is derived; |x| < 5 and, with their means, keys
  // below 8.
  double exact_tolerance() const {
    const double u = kFloatEpsilon / 2, dim = shape.dim;
    int keys = 0;
    for (const AttentionSegment& s : list) keys = std::max(keys, s.cached + s.tokens);
    return 5 * (2 * u * dim * args.scale * 2 * dim + u * (keys + 20));
  }

  // Rounding a query moves each value by at most half a step, uniformly: by step /
  // sqrt(12), step at most 4.5 / 127 for normals, so a score with |k|^2 = 2 dim by
  // scale step sqrt(2 dim / 12), which moves y by that times the spread of values, 1.
  // Rounding weights moves each by at most half a step of 1 / 127 in the mean square,
  // 64 of them in a block, values off their middle by 1 (affine: by less than 2).
  double rounding_rms() const {
    const double score = args.scale * 4.5 / 127 * std::sqrt(2.0 * shape.dim / 12);
    return score + 2 * 8.0 / (2 * 127);
  }

  HeadShape shape;
  std::vector<KvData> data;
  std::vector<std::unique_ptr<PagedSequence>> sequences;
  std::vector<AttentionSegment> list;
  std::vector<float> q, gate, y;
  AttentionArgs args{};
};

inline double rms_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    sum += std::pow(static_cast<double>(a[i]) - b[i], 2);
  return std::sqrt(sum / static_cast<double>(a.size()));
}

}  // namespace optiq::testing
