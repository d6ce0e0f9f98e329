// Attention on MLX arrays, without a cache or over pages of one.
#pragma once
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "mlx/array.h"
#include "optiq/kernels/attention/page_table_primitive.h"
#include "optiq/kernels/linear/activation.h"
#include "optiq/kernels/segment.h"

namespace optiq::kernels {

namespace mx = mlx::core;

struct AttentionOptions {
  float scale = 1.0f;  // of q k, most often head_dim^-1/2
  int window = 0;  // a token sees the last `window` tokens, itself among them; 0: all
  bool causal = true;
  std::optional<mx::array> gate;  // y *= sigmoid(gate), [T, n_heads, head_dim]
  Activation activation = Activation::kInt8;  // over coded pages
};

/// softmax(scale q k^T + mask) v for each segment by itself, grouped-query, without a
/// cache (every `cached` is 0).
///
/// Shapes    q [T, n_heads, D], k and v [T, n_kv_heads, D] float32 -> [T, n_heads, D].
///           q, k, v and the gate may be strided views whose last axis is contiguous.
mx::array attention(const mx::array& q, const mx::array& k, const mx::array& v,
                    std::span<const Segment> segments, const AttentionOptions& options);

/// What one call over pages meets. It is looked up when the kernel runs, so a taped
/// call (dispatch_tape.h) is replayed on what it says then.
struct PagedCall {
  std::vector<Segment> segments;
  std::vector<PagedKv> pages;  // one a segment
  // For kernels of a CUDA device, the same for all layers; null: made where needed.
  std::shared_ptr<PageTable> table{};
};

/// The same over pages: k and v are first appended behind the `cached` tokens of each
/// segment's pages, then attended to with all that is before them.
///
/// The pages are memory beside MLX's graph. They are written when the result is
/// evaluated, and whoever reads or writes them next must come after that: evaluate a
/// step before the next one is built. An array that is evaluated twice (a gradient's
/// recomputation) writes the same bytes twice.
///
/// Requires  each table has pages for cached + tokens; no page is in two segments
/// unless all of its tokens are cached
mx::array paged_attention(const mx::array& q, const mx::array& k, const mx::array& v,
                          std::shared_ptr<const PagedCall> call,
                          const AttentionOptions& options);

/// The same over what another layer of the same call has appended to its pages.
///
/// Requires  that layer's result is among what q is computed from
mx::array attention_over_pages(const mx::array& q,
                               std::shared_ptr<const PagedCall> call, int n_kv_heads,
                               const AttentionOptions& options);

}  // namespace optiq::kernels
