// Size against divergence: what other sizes, and one width for all, would have given.
#pragma once
#include "optiq/convert/choose.h"
#include "optiq/convert/encoder.h"
#include "optiq/convert/options.h"

namespace optiq::convert {

/// Fills result.baselines and result.curve: one width for all at each of `widths`, by
/// MLX's own rounding, and, where there are measured costs, the mix of the same bytes.
///
/// Requires  `result` with what was chosen
/// Cost      a measurement of each point on the meter's windows, and the encoding of
///           what the encoder does not hold
void measure_curve(Result& result, const checkpoint::Checkpoint& source,
                   Encoder& encoder, sensitivity::DivergenceMeter& held_out,
                   const sensitivity::Sensitivities* costs, const Options& options);

/// The points in optiq/metadata.json and back.
nlohmann::json to_json(const std::vector<CurvePoint>& curve);
std::vector<CurvePoint> curve_from_json(const nlohmann::json& json);

}  // namespace optiq::convert
