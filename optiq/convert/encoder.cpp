#include "optiq/convert/encoder.h"

#include <algorithm>

#include "optiq/quantize/linear_weight.h"

namespace optiq::convert {

Encoder::Encoder(models::Model& model, sensitivity::InputStatistics statistics,
                 std::int64_t cache_bytes)
    : model_(model),
      statistics_(std::move(statistics)),
      room_bytes_(cache_bytes),
      offered_room_bytes_(cache_bytes) {
  for (models::LinearModule* module : model_.linears()) {
    const kernels::LinearWeight& w = module->weight;
    matrices_.push_back({module->path, w.output_dim(), w.input_dim(),
                         size_of(quantize::scale_type_of(w))});
    modules_.emplace(module->path, module);
    originals_.emplace(module->path, w);
  }
}

kernels::LinearWeight Encoder::encoded(const std::string& path, const QuantSpec& spec,
                                       quantize::Search search) {
  const Key key{path, spec.mode, spec.bits, spec.group_size, search};
  for (const auto* known : {&kept_, &offered_, &encoded_})
    if (const auto found = known->find(key); found != known->end())
      return found->second;
  const kernels::LinearWeight& original = originals_.at(path);
  quantize::EncodedTensor tensor =
      quantize::encode(original, spec, statistics_.mean_squares(path), search);
  const std::int64_t bytes = tensor.bytes();
  kernels::LinearWeight w =
      quantize::as_linear_weight(std::move(tensor), original.bias);
  if (bytes <= room_bytes_) {
    room_bytes_ -= bytes;
    encoded_.emplace(key, w);
  }
  return w;
}

void Encoder::keep(const std::string& path, const QuantSpec& spec,
                   quantize::Search search, kernels::LinearWeight w) {
  kept_.insert_or_assign(Key{path, spec.mode, spec.bits, spec.group_size, search},
                         std::move(w));
  in_place_.erase(path);
}

void Encoder::offer(const std::string& path, const QuantSpec& spec,
                    quantize::Search search, kernels::LinearWeight w) {
  const auto bytes = static_cast<std::int64_t>(w.weight.nbytes() + w.scales->nbytes() +
                                               (w.biases ? w.biases->nbytes() : 0));
  if (bytes > offered_room_bytes_) return;
  offered_room_bytes_ -= bytes;
  offered_.insert_or_assign(Key{path, spec.mode, spec.bits, spec.group_size, search},
                            std::move(w));
  in_place_.erase(path);
}

Encoder::Kept Encoder::exchange_kept(Kept kept) {
  in_place_.clear();
  return std::exchange(kept_, std::move(kept));
}

Encoder::Kept Encoder::exchange_offered(Kept offered) {
  in_place_.clear();
  return std::exchange(offered_, std::move(offered));
}

void Encoder::apply(const std::string& path, const std::optional<QuantSpec>& spec,
                    quantize::Search search) {
  models::LinearModule& module = *modules_.at(path);
  if (!spec) {
    module.weight = originals_.at(path);
    in_place_.erase(path);
    return;
  }
  const Key key{path, spec->mode, spec->bits, spec->group_size, search};
  const auto found = in_place_.find(path);
  if (found != in_place_.end() && found->second == key) return;
  module.weight = encoded(path, *spec, search);
  in_place_.insert_or_assign(path, key);
}

void Encoder::apply(const Plan& plan, quantize::Search search) {
  for (const auto& [path, spec] : plan) apply(path, spec, search);
}

void Encoder::restore() {
  for (auto& [path, module] : modules_) module->weight = originals_.at(path);
  in_place_.clear();
}

}  // namespace optiq::convert
