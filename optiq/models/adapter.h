// What an adapter is to a model: two thin matrices at some of its linear modules.
#pragma once
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "optiq/kernels/low_rank/low_rank_primitive.h"

namespace optiq::models {

namespace mx = mlx::core;

/// Read from files by adapters/, or made of what is being trained by train/.
struct Adapter {
  std::unordered_map<std::string, kernels::LowRank> modules;  // by LinearModule::name
  std::string identity{};  // of this load: what was computed with it is of no use to
                           // another load of the same files

  const kernels::LowRank* find(const std::string& name) const {
    const auto at = modules.find(name);
    return at == modules.end() ? nullptr : &at->second;
  }
};

using AdapterPtr = std::shared_ptr<const Adapter>;

/// One adapter that does what these do together: their matrices side by side, which is
/// exact.
///
/// Throws    std::invalid_argument if one of them has a gain (DoRA): gains do not add
Adapter stacked(const std::vector<AdapterPtr>& adapters);

}  // namespace optiq::models
