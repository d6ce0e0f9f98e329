#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "optiq/kernels/attention/attention_tile.h"
#include "optiq/kernels/kv_page/kv_page_head.h"

namespace optiq::kernels::ref {
namespace {

KvTransform transform_of(const AttentionSegment& s) {
  return s.pages && s.pages->transform ? *s.pages->transform : KvTransform{};
}

// A key or value as it is stored.
std::vector<double> stored(const AttentionSegment& s, bool keys, int head, int token,
                           int dim) {
  std::vector<double> x(static_cast<std::size_t>(dim));
  if (s.pages) {
    const int page = token / kPageTokens;
    const KvLayout& layout = layout_of(*s.pages, page);
    stored_row(keys ? layout.k : layout.v, head_of(*s.pages, page, head), keys,
               token % kPageTokens, transform_of(s), x);
    return x;
  }
  const std::int64_t at = keys ? head * s.kv.k_head_stride + token * s.kv.k_row_stride
                               : head * s.kv.v_head_stride + token * s.kv.v_row_stride;
  for (int i = 0; i < dim; ++i)
    x[static_cast<std::size_t>(i)] =
        load_float(keys ? s.kv.k : s.kv.v, at + i, s.kv.type);
  return x;
}

void write_row(const AttentionArgs& a, const AttentionTile& tile, int row,
               std::vector<double> sums, double weight) {
  const KvTransform transform = transform_of(a.segments[tile.segment]);
  if (transform.v_signs) rotate_back(transform.v_signs, a.head_dim, sums.data());
  scale_channels(of_head(transform.sum_scale, tile.kv_head, a.head_dim), sums);
  const int group = a.n_heads / a.n_kv_heads;
  const std::int64_t token = tile.first_token + row / group;
  const int head = tile.kv_head * group + row % group;
  for (int i = 0; i < a.head_dim; ++i) {
    double value = sums[static_cast<std::size_t>(i)] / weight;
    if (a.gate)
      value /=
          1 + std::exp(-static_cast<double>(
                  a.gate[token * a.gate_row_stride + head * a.gate_head_stride + i]));
    a.y[(token * a.n_heads + head) * a.head_dim + i] = static_cast<float>(value);
  }
}

}  // namespace

void attention_tile(const AttentionArgs& a, const AttentionTile& tile, float*) {
  const AttentionSegment& s = a.segments[tile.segment];
  const int group = a.n_heads / a.n_kv_heads, dim = a.head_dim;
  for (int row = tile.row_begin; row < tile.row_end; ++row) {
    const int position = s.cached + row / group;
    const int window_begin =
        a.window > 0 && position >= a.window ? position - a.window + 1 : 0;
    const int visible_end = a.causal ? position + 1 : s.cached + s.tokens;
    const int begin = std::max(window_begin, tile.chunk_begin * kChunkKeys);
    const int end = std::min(visible_end, tile.chunk_end * kChunkKeys);
    const float* from = a.q + (tile.first_token + row / group) * a.q_row_stride +
                        (tile.kv_head * group + row % group) * a.q_head_stride;
    std::vector<double> q(from, from + dim);
    const KvTransform transform = transform_of(s);
    scale_channels(of_head(transform.q_scale, tile.kv_head, dim), q);
    if (transform.k_signs) rotate(transform.k_signs, dim, q.data());
    std::vector<double> scores, sums(static_cast<std::size_t>(dim), 0.0);
    double largest = -1e30;
    for (int key = begin; key < end; ++key) {
      const std::vector<double> k = stored(s, true, tile.kv_head, key, dim);
      const double dot = std::inner_product(q.begin(), q.end(), k.begin(), 0.0);
      scores.push_back(dot * a.scale);
      largest = std::max(largest, scores.back());
    }
    double weight = 0;
    for (int key = begin; key < end; ++key) {
      const double p =
          std::exp(scores[static_cast<std::size_t>(key - begin)] - largest);
      weight += p;
      const std::vector<double> v = stored(s, false, tile.kv_head, key, dim);
      for (std::size_t i = 0; i < v.size(); ++i) sums[i] += p * v[i];
    }
    if (!tile.partial) {
      write_row(a, tile, row, sums, weight);
      continue;
    }
    float* out = tile.partial + partial_size(row - tile.row_begin, dim);
    *out++ = static_cast<float>(largest);
    *out++ = static_cast<float>(weight);
    for (double sum : sums) *out++ = static_cast<float>(sum);
  }
}

void attention_merge(const AttentionArgs& a, const AttentionTile& tile,
                     const float* partials, int n_partials) {
  const std::int64_t stride = partial_size(tile.row_end - tile.row_begin, a.head_dim);
  for (int row = tile.row_begin; row < tile.row_end; ++row) {
    const float* first = partials + partial_size(row - tile.row_begin, a.head_dim);
    double largest = -1e30, weight = 0;
    for (int i = 0; i < n_partials; ++i)
      largest = std::max<double>(largest, first[i * stride]);
    std::vector<double> sums(static_cast<std::size_t>(a.head_dim), 0.0);
    for (int i = 0; i < n_partials; ++i) {
      const float* partial = first + i * stride;
      const double p = std::exp(partial[0] - largest);
      weight += p * partial[1];
      for (std::size_t d = 0; d < sums.size(); ++d) sums[d] += p * partial[2 + d];
    }
    write_row(a, tile, row, sums, weight);
  }
}

}  // namespace optiq::kernels::ref
