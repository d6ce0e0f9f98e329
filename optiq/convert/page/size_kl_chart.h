// Size against divergence, drawn: uniform widths, mixes, and the one that was written.
#pragma once
#include <span>
#include <string>

#include "optiq/convert/options.h"

namespace optiq::convert {

/// An SVG element without references to anything outside; empty for fewer than two
/// points with a divergence above 0. Sizes are linear, divergences logarithmic.
std::string size_kl_chart(std::span<const CurvePoint> points);

}  // namespace optiq::convert
