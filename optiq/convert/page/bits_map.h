// The width of every matrix at one glance: a column a layer, a row a projection.
#pragma once
#include <span>
#include <string>

#include "optiq/convert/inspect.h"

namespace optiq::convert {

/// A table; each cell has its width, its colour, and the whole name as a tip.
std::string bits_map(std::span<const InspectedLayer> layers);

}  // namespace optiq::convert
