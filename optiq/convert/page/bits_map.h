// The width of every matrix at one glance: a column a layer, a row a projection.
#pragma once
#include <span>
#include <string>

#include "optiq/convert/inspect.h"

namespace optiq::convert {

/// A table, and the legend of its colours.
std::string bits_map(std::span<const InspectedLayer> layers);

}  // namespace optiq::convert
