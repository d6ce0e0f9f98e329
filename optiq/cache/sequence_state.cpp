#include "optiq/cache/sequence_state.h"

#include "mlx/allocator.h"
#include "mlx/ops.h"

namespace optiq::cache {
namespace {

mx::Dtype dtype_of(FloatType type) {
  switch (type) {
    case FloatType::kF16:
      return mx::float16;
    case FloatType::kBF16:
      return mx::bfloat16;
    default:
      return mx::float32;
  }
}

// Memory that is allocated and not touched.
mx::array untouched(const mx::Shape& shape, mx::Dtype dtype) {
  std::size_t bytes = mx::size_of(dtype);
  for (int n : shape) bytes *= static_cast<std::size_t>(n);
  return mx::array(mx::allocator::malloc(bytes), shape, dtype);
}

}  // namespace

SequenceState::SequenceState(const std::vector<LayerShape>& shapes, int capacity,
                             FloatType kv_type)
    : shapes_(shapes), layers_(shapes.size()), kv_type_(kv_type), capacity_(capacity) {
  for (std::size_t i = 0; i < shapes_.size(); ++i) {
    const LayerShape& s = shapes_[i];
    if (s.n_kv_heads > 0) {
      const mx::Shape shape{s.n_kv_heads, capacity, s.head_dim};
      layers_[i].kv = kernels::KvArrays{untouched(shape, dtype_of(kv_type)),
                                        untouched(shape, dtype_of(kv_type))};
    }
    if (s.conv_kernel > 0) {
      layers_[i].conv_tail = mx::zeros({s.conv_kernel - 1, s.conv_channels});
      layers_[i].delta_state = mx::zeros({s.n_value_heads, s.key_dim, s.value_dim});
    }
  }
}

void SequenceState::reserve(int capacity) {
  if (capacity <= capacity_) return;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    if (!layers_[i].kv) continue;
    const LayerShape& s = shapes_[i];
    const mx::Shape shape{s.n_kv_heads, capacity, s.head_dim};
    const mx::Shape begin{0, 0, 0}, end{s.n_kv_heads, length_, s.head_dim};
    const auto grow = [&](const mx::array& old) {
      const mx::array larger = untouched(shape, old.dtype());
      if (length_ == 0) return larger;
      return mx::slice_update(larger, mx::slice(old, begin, end), begin, end);
    };
    layers_[i].kv = kernels::KvArrays{grow(layers_[i].kv->k), grow(layers_[i].kv->v)};
  }
  capacity_ = capacity;
}

std::vector<mx::array> SequenceState::arrays() const {
  std::vector<mx::array> all;
  for (const LayerState& layer : layers_) {
    if (layer.kv) {
      all.push_back(layer.kv->k);
      all.push_back(layer.kv->v);
    }
    if (layer.conv_tail) all.push_back(*layer.conv_tail);
    if (layer.delta_state) all.push_back(*layer.delta_state);
  }
  return all;
}

std::int64_t SequenceState::bytes_per_token() const {
  std::int64_t bytes = 0;
  for (const LayerShape& s : shapes_)
    bytes += 2LL * s.n_kv_heads * s.head_dim * size_of(kv_type_);
  return bytes;
}

}  // namespace optiq::cache
