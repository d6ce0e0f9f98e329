#include "optiq/cache/turbo_quant_cache.h"

#include <fmt/format.h>

#include <stdexcept>
#include <vector>

#include "mlx/transforms.h"
#include "optiq/kernels/kv_page/kv_page.h"

namespace optiq::cache {
namespace {

std::shared_ptr<KvCache> cache_of(int n_kv_heads, int head_dim, const KvFormat& format,
                                  std::uint64_t seed) {
  CacheOptions options;
  options.formats = {format, format};
  options.seed = seed;
  return std::make_shared<KvCache>(
      std::vector<LayerShape>{{.n_kv_heads = n_kv_heads, .head_dim = head_dim}},
      options);
}

}  // namespace

TurboQuantCache::TurboQuantCache(int head_dim, int bits, std::uint64_t seed)
    : head_dim_(head_dim), format_(kv_format("turbo", bits, 0)), seed_(seed) {
  make_kv_layout(1, head_dim, format_, format_);  // refuses a head_dim
}

mx::array TurboQuantCache::attend(const mx::array& q, const mx::array& keys,
                                  const mx::array& values,
                                  const kernels::AttentionOptions& options) {
  if (keys.ndim() != 3 || keys.shape(1) < 1 || keys.shape(2) != head_dim_)
    throw std::invalid_argument(
        fmt::format("TurboQuantCache: expected keys [T, n_kv_heads, {}]", head_dim_));
  if (!state_) state_.emplace(cache_of(keys.shape(1), head_dim_, format_, seed_));
  const int n_kv_heads = state_->cache().shapes()[0].n_kv_heads;
  if (keys.shape(1) != n_kv_heads)
    throw std::invalid_argument(
        fmt::format("TurboQuantCache: expected {} heads as before, found {}",
                    n_kv_heads, keys.shape(1)));
  state_->prepare(keys.shape(0));
  const auto call = std::make_shared<kernels::PagedCall>(
      kernels::PagedCall{{{keys.shape(0), state_->length()}}, {state_->pages(0)}});
  mx::array y = kernels::paged_attention(q, keys, values, call, options);
  mx::eval(y);
  state_->advance(keys.shape(0));
  return y;
}

std::pair<mx::array, mx::array> TurboQuantCache::fetch() const {
  const kernels::PagedKv pages = state_->pages(0);
  const int n_kv_heads = pages.pages.coded_layout->n_kv_heads, tokens = length();
  const std::size_t head = static_cast<std::size_t>(tokens) * head_dim_;
  std::vector<float> k(static_cast<std::size_t>(n_kv_heads) * head), v(k.size());
  for (int h = 0; h < n_kv_heads; ++h)
    kernels::read_from_pages(
        pages.pages, {h, 0, tokens, k.data() + h * head, v.data() + h * head, true});
  const mx::Shape shape{n_kv_heads, tokens, head_dim_};
  return {mx::array(k.data(), shape), mx::array(v.data(), shape)};
}

void TurboQuantCache::truncate(int length) {
  if (!state_ && length != 0)
    throw std::invalid_argument(
        fmt::format("TurboQuantCache: expected a length of 0, found {}", length));
  if (state_) state_->truncate(length);
}

}  // namespace optiq::cache
