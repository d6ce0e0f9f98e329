// What the sequences of one model share: the form of their pages, and the store.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "optiq/cache/cache_options.h"
#include "optiq/cache/page_store.h"
#include "optiq/kernels/kv_page/kv_layout.h"

namespace optiq::cache {

/// What a layer needs to be remembered, decided by its model.
struct LayerShape {
  int n_kv_heads = 0;  // 0: not an attention layer
  int head_dim = 0;
  int conv_kernel = 0;  // 0: not a gated delta net
  int conv_channels = 0;
  int n_value_heads = 0;
  int key_dim = 0;
  int value_dim = 0;
};

/// An attention layer's keys and values in the pages of any sequence.
struct LayerPages {
  LayerFormats formats;
  KvLayout float_layout, coded_layout;
  std::int64_t float_offset = 0, coded_offset = 0;        // in pages of the two kinds
  std::vector<float> k_signs, v_signs, k_residual_signs;  // empty: not done
  ChannelTransform channels;
  std::vector<float> q_scale, sum_scale;  // one over those of keys and of values
  KvTransform transform;                  // of all these, where the pages lie
};

/// Threads   any.
class KvCache {
 public:
  /// Throws    std::invalid_argument for formats that do not fit the layers;
  ///           CheckpointError where a file says so
  KvCache(std::vector<LayerShape> shapes, const CacheOptions& options);

  const std::vector<LayerShape>& shapes() const { return shapes_; }

  /// Null for a layer without attention.
  const LayerPages* layer(int i) const {
    return layers_[static_cast<std::size_t>(i)].get();
  }

  bool has_attention_layers() const { return coded_page_bytes() > 0; }

  /// Pages of a sequence that stay float, from its beginning.
  int float_pages() const { return float_pages_; }

  PageStore& store() const { return *store_; }

  /// True if there are layers whose state is not kept token by token.
  bool has_recurrent_layers() const { return recurrent_bytes_ > 0; }

  /// Of the state of all such layers, of one sequence.
  std::int64_t recurrent_bytes() const { return recurrent_bytes_; }

  /// Of a token's keys and values in all layers, behind the first float pages.
  std::int64_t bytes_per_token() const { return coded_page_bytes() / kPageTokens; }

  /// Of the keys and values of a sequence of `tokens`.
  std::int64_t bytes(std::int64_t tokens) const;

 private:
  /// Values in the memory of pages; null of none.
  const float* beside_pages(const std::vector<float>& values);

  std::int64_t coded_page_bytes() const {
    return static_cast<std::int64_t>(store_->page_bytes(1));
  }

  const PageMemory& memory_;
  std::vector<std::shared_ptr<std::byte>> copies_;  // what beside_pages made
  std::vector<LayerShape> shapes_;
  std::vector<std::unique_ptr<LayerPages>> layers_;
  int float_pages_ = 0;
  std::int64_t recurrent_bytes_ = 0;
  std::unique_ptr<PageStore> store_;
};

}  // namespace optiq::cache
