// Encodes a model's matrices under a plan, each at most once per format.
#pragma once
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "optiq/convert/plan.h"
#include "optiq/models/model.h"
#include "optiq/quantize/encoded_tensor.h"
#include "optiq/sensitivity/divergence.h"

namespace optiq::convert {

/// Holds the model's own weights and swaps encoded ones in and out.
///
/// Threads   one.
class Encoder {
 public:
  struct Key {
    std::string path;
    QuantMode mode;
    int bits, group_size;
    quantize::Search search;
    auto operator<=>(const Key&) const = default;
  };
  using Kept = std::map<Key, kernels::LinearWeight>;

  /// `cache_bytes`: encoded tensors are kept up to this size in all, beside those that
  /// the model has now.
  Encoder(models::Model& model, sensitivity::InputStatistics statistics,
          std::int64_t cache_bytes = 2LL << 30);

  const std::vector<Matrix>& matrices() const { return matrices_; }

  /// The encoded form of one matrix. Shapes  as kernels::LinearWeight
  kernels::LinearWeight encoded(const std::string& path, const QuantSpec& spec,
                                quantize::Search search);

  /// Takes `w` for the encoded form from now on: `keep` in any case, before what was
  /// offered; `offer` while there is room for as much again as the cache.
  void keep(const std::string& path, const QuantSpec& spec, quantize::Search search,
            kernels::LinearWeight w);
  void offer(const std::string& path, const QuantSpec& spec, quantize::Search search,
             kernels::LinearWeight w);

  /// Takes the one given for what was kept, or offered, and returns that.
  Kept exchange_kept(Kept kept);
  Kept exchange_offered(Kept offered);

  /// The matrix as it is in the source.
  const kernels::LinearWeight& original(const std::string& path) const {
    return originals_.at(path);
  }

  /// Gives every matrix of the model its format of the plan.
  void apply(const Plan& plan, quantize::Search search = quantize::Search::kSearch);

  /// Gives one matrix a format.
  void apply(const std::string& path, const std::optional<QuantSpec>& spec,
             quantize::Search search = quantize::Search::kSearch);

  /// Gives every matrix its own weights back.
  void restore();

  models::Model& model() { return model_; }
  const sensitivity::InputStatistics& statistics() const { return statistics_; }

 private:
  models::Model& model_;
  sensitivity::InputStatistics statistics_;
  std::int64_t room_bytes_;
  std::vector<Matrix> matrices_;
  std::unordered_map<std::string, models::LinearModule*> modules_;
  std::unordered_map<std::string, kernels::LinearWeight> originals_;
  std::map<Key, kernels::LinearWeight> encoded_;
  Kept kept_;     // looked up first
  Kept offered_;  // then these, then what was encoded here
  std::int64_t offered_room_bytes_;
  std::unordered_map<std::string, Key> in_place_;  // of modules with an encoded weight
};

}  // namespace optiq::convert
