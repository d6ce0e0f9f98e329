#include "optiq/kernels/attention/attention_fallback.h"

#include <limits>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/kernels/kv_page/kv_page.h"

namespace optiq::kernels {
namespace {

// Rows [begin, end) of the first axis.
mx::array rows(const mx::array& x, int begin, int end) {
  return mx::slice(x, {begin, 0, 0}, {end, x.shape(1), x.shape(2)});
}

// 0 where the key is visible, -infinity elsewhere: [tokens, cached + tokens].
mx::array additive_mask(const Segment& segment, int window, bool causal) {
  const int keys = segment.cached + segment.tokens;
  const mx::array position =
      mx::reshape(mx::arange(segment.cached, keys, 1), {segment.tokens, 1});
  const mx::array key = mx::reshape(mx::arange(0, keys, 1), {1, keys});
  mx::array visible = mx::full({segment.tokens, keys}, true);
  if (causal) visible = mx::logical_and(visible, mx::less_equal(key, position));
  if (window > 0)
    visible = mx::logical_and(visible, mx::greater(key, position - mx::array(window)));
  return mx::where(visible, mx::array(0.0f),
                   mx::array(-std::numeric_limits<float>::infinity()));
}

// q [t, n_heads, D]; k, v [n_kv_heads, S, D] -> [t, n_heads, D].
mx::array attend(const mx::array& q, const mx::array& k, const mx::array& v,
                 const mx::array& mask, float scale) {
  const int tokens = q.shape(0), n_heads = q.shape(1), dim = q.shape(2);
  const int n_kv_heads = k.shape(0), keys = k.shape(1);
  const mx::array queries = mx::reshape(
      mx::transpose(q, {1, 0, 2}), {n_kv_heads, n_heads / n_kv_heads, tokens, dim});
  const mx::array scores =
      mx::matmul(queries,
                 mx::reshape(mx::transpose(k, {0, 2, 1}), {n_kv_heads, 1, dim, keys})) *
          scale +
      mask;
  const mx::array y =
      mx::matmul(mx::softmax(scores, -1), mx::reshape(v, {n_kv_heads, 1, keys, dim}));
  return mx::transpose(mx::reshape(y, {n_heads, tokens, dim}), {1, 0, 2});
}

// The segments' rows end to end, gated.
mx::array with_gate(const std::vector<mx::array>& parts,
                    const std::vector<mx::array>& inputs, bool has_gate) {
  const mx::array y =
      parts.empty() ? mx::zeros(inputs[0].shape()) : mx::concatenate(parts, 0);
  return has_gate ? y * mx::sigmoid(inputs[3]) : y;
}

}  // namespace

std::vector<mx::array> attention_fallback(const std::vector<mx::array>& inputs,
                                          std::span<const Segment> segments,
                                          float scale, int window, bool causal,
                                          bool has_gate) {
  std::vector<mx::array> parts;
  int row = 0;
  for (const Segment& segment : segments) {
    if (segment.tokens == 0) continue;
    const int end = row + segment.tokens;
    parts.push_back(attend(rows(inputs[0], row, end),
                           mx::transpose(rows(inputs[1], row, end), {1, 0, 2}),
                           mx::transpose(rows(inputs[2], row, end), {1, 0, 2}),
                           additive_mask(segment, window, causal), scale));
    row = end;
  }
  return {with_gate(parts, inputs, has_gate)};
}

std::vector<mx::array> paged_fallback(const std::vector<mx::array>& inputs,
                                      std::span<const Segment> segments,
                                      std::span<const PagedKv> pages, float scale,
                                      int window, bool causal, bool has_gate) {
  const mx::array k = mx::contiguous(inputs[1]), v = mx::contiguous(inputs[2]);
  mx::eval(k, v);
  const int n_kv_heads = k.shape(1), dim = k.shape(2);
  const std::int64_t width = static_cast<std::int64_t>(n_kv_heads) * dim;
  std::vector<mx::array> parts;
  int row = 0;
  for (std::size_t i = 0; i < segments.size(); ++i) {
    const Segment& segment = segments[i];
    if (segment.tokens == 0) continue;
    append_to_pages(
        {k.data<float>() + row * width, width, dim, v.data<float>() + row * width,
         width, dim, segment.cached, segment.tokens},
        pages[i].pages);
    const int keys = segment.cached + segment.tokens;
    const std::int64_t head = static_cast<std::int64_t>(keys) * dim;
    std::vector<float> all_k(static_cast<std::size_t>(n_kv_heads * head));
    std::vector<float> all_v(all_k.size());
    for (int h = 0; h < n_kv_heads; ++h)
      read_from_pages(pages[i].pages, {h, 0, keys, all_k.data() + h * head,
                                       all_v.data() + h * head, true});
    const mx::Shape shape{n_kv_heads, keys, dim};
    parts.push_back(attend(
        rows(inputs[0], row, row + segment.tokens), mx::array(all_k.data(), shape),
        mx::array(all_v.data(), shape), additive_mask(segment, window, causal), scale));
    row += segment.tokens;
  }
  return {with_gate(parts, inputs, has_gate)};
}

}  // namespace optiq::kernels
