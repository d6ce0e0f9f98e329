#include "optiq/convert/curve.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "optiq/base/signal.h"
#include "optiq/convert/write.h"

namespace optiq::convert {
namespace {

using sensitivity::Divergence;
using sensitivity::DivergenceMeter;
using Series = CurvePoint::Series;

constexpr int kGroupSize = 64;  // of the uniform models

constexpr std::pair<Series, std::string_view> kSeriesNames[] = {
    {Series::kUniform, "uniform"}, {Series::kMix, "mix"}, {Series::kChosen, "chosen"}};

Divergence measure(Encoder& encoder, DivergenceMeter& meter, const Plan& plan,
                   quantize::Search rounding) {
  throw_if_interrupted();
  encoder.apply(plan, rounding);
  meter.restart();
  return meter.measure({.with_p99 = true});
}

}  // namespace

void measure_curve(Result& result, const checkpoint::Checkpoint& source,
                   Encoder& encoder, DivergenceMeter& held_out,
                   const sensitivity::Sensitivities* costs, const Options& options) {
  std::set<int> widths(options.candidate_bits.begin(), options.candidate_bits.end());
  widths.insert({4, 8});
  for (const int bits : widths) {
    const QuantSpec spec{QuantMode::kAffine, bits, kGroupSize};
    const Plan plan = uniform_plan(encoder.matrices(), spec);
    const Divergence d = measure(encoder, held_out, plan, quantize::Search::kMlx);
    const std::int64_t bytes = planned_bytes(source, plan);
    const double bpw =
        8.0 * static_cast<double>(bytes) / static_cast<double>(result.params);
    result.baselines[fmt::format("uniform_{}bit", bits)] = {bytes, bpw, d.mean, d.p99};
    result.curve.push_back(
        {Series::kUniform, fmt::format("uniform {}-bit", bits), bytes, d.mean, d.p99});
    if (!costs) continue;
    try {
      const Plan mix = allocate_plan(source, encoder.matrices(), *costs, {0, bytes},
                                     encoder.model().n_layers(), /*protect=*/false,
                                     options.tie_fused);
      const Divergence m = measure(encoder, held_out, mix, options.rounding);
      result.curve.push_back({Series::kMix, fmt::format("mix, {} bytes", bytes),
                              planned_bytes(source, mix), m.mean, m.p99});
    } catch (const std::invalid_argument&) {
      // The narrowest mix is larger than this uniform model.
    }
  }
  if (result.kl_mean)
    result.curve.push_back({Series::kChosen, "this model", result.bytes,
                            *result.kl_mean, result.kl_p99.value_or(0)});
  encoder.restore();
}

nlohmann::json to_json(const std::vector<CurvePoint>& curve) {
  nlohmann::json points = nlohmann::json::array();
  for (const CurvePoint& point : curve) {
    const auto name = std::ranges::find(kSeriesNames, point.series,
                                        &std::pair<Series, std::string_view>::first);
    points.push_back({{"series", name->second},
                      {"label", point.label},
                      {"bytes", point.bytes},
                      {"kl_mean", point.kl_mean},
                      {"kl_p99", point.kl_p99}});
  }
  return points;
}

std::vector<CurvePoint> curve_from_json(const nlohmann::json& json) {
  std::vector<CurvePoint> curve;
  if (!json.is_array()) return curve;
  for (const auto& point : json) {
    if (!point.is_object()) continue;
    const std::string series = point.value("series", "");
    for (const auto& [value, name] : kSeriesNames)
      if (series == name)
        curve.push_back({value, point.value("label", ""),
                         point.value("bytes", std::int64_t{0}),
                         point.value("kl_mean", 0.0), point.value("kl_p99", 0.0)});
  }
  return curve;
}

}  // namespace optiq::convert
