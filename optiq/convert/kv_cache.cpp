#include "optiq/convert/kv_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <stdexcept>

#include "optiq/base/error.h"
#include "optiq/base/file.h"
#include "optiq/convert/kv_sidecars.h"
#include "optiq/sensitivity/kv/equalize.h"

namespace optiq::convert {
namespace {

using sensitivity::CacheMeter;
using sensitivity::KvPlan;
using sensitivity::KvSensitivity;

// Swaps that a joint measurement tries: each is a forward call over all sequences.
std::size_t n_swaps(std::size_t n_parts) {
  return std::clamp<std::size_t>(n_parts / 2, 2, 8);
}

struct Contender {
  std::string label;
  KvPlan plan;
};

const KvFormatInfo& info_of(const std::string& name) {
  for (const KvFormatInfo& row : kv_formats())
    if (row.name == name && row.kind != KvKind::kFloat) return row;
  throw std::invalid_argument(
      fmt::format("--format: expected affine, turbo or turbo-qjl, found '{}'", name));
}

std::vector<KvFormat> candidates(const KvCacheOptions& options) {
  std::vector<int> bits = options.candidate_bits;
  if (bits.empty()) bits = default_kv_bits(options.format);
  std::ranges::sort(bits);
  bits.erase(std::unique(bits.begin(), bits.end()), bits.end());
  std::vector<KvFormat> formats;
  try {
    for (int b : bits)
      formats.push_back(kv_format(info_of(options.format).name, b, options.group_size));
  } catch (const std::invalid_argument& error) {
    throw std::invalid_argument(
        fmt::format("--candidate-bits, --group-size: {}", error.what()));
  }
  if (options.target_bits < formats.front().bits)
    throw std::invalid_argument(fmt::format(
        "--target-bits: expected at least {}, the narrowest of --candidate-bits, "
        "found {}",
        formats.front().bits, options.target_bits));
  return formats;
}

// What a model's layers are called, from their key projections.
std::vector<std::string> layer_names(models::Model& model) {
  std::vector<std::string> names(static_cast<std::size_t>(model.n_layers()));
  constexpr std::string_view kKeys = ".k_proj";
  for (const models::LinearModule* module : model.linears())
    if (module->path.ends_with(kKeys))
      names[static_cast<std::size_t>(module->layer)] =
          module->path.substr(0, module->path.size() - kKeys.size());
  return names;
}

sensitivity::Calibration draw(const KvCacheOptions& options,
                              const sensitivity::Tokenize& tokenize) {
  sensitivity::CalibrationOptions calibration;
  calibration.source = options.calibration;
  calibration.n_windows = options.n_samples;
  calibration.n_held_out = options.n_samples;
  calibration.window_tokens = options.seq_len;
  calibration.seed = options.seed;
  return sensitivity::make_calibration(
      options.calibration == "builtin" ? sensitivity::builtin_samples()
                                       : sensitivity::read_samples(options.calibration),
      calibration, tokenize);
}

// Uniform formats of at most these bytes, none of which another beats in both width
// and group size: what anybody could have without measuring.
std::vector<Contender> uniform_contenders(const std::vector<cache::LayerShape>& shapes,
                                          const std::string& format,
                                          std::int64_t page_bytes) {
  const KvFormatInfo& info = info_of(format);
  std::vector<int> falling(info.bits.begin(), info.bits.end()), groups{0};
  std::ranges::sort(falling, std::greater<>());
  if (!info.group_sizes.empty())
    groups.assign(info.group_sizes.begin(), info.group_sizes.end());
  std::ranges::sort(groups);
  std::vector<Contender> contenders;
  int smallest_group = 1 << 30;
  for (int b : falling)
    for (int group_size : groups) {
      if (group_size >= smallest_group) continue;
      const KvFormat uniform = kv_format(info.name, b, group_size);
      KvPlan plan = sensitivity::uniform_kv_plan(shapes, uniform);
      if (sensitivity::page_bytes(shapes, plan) > page_bytes) continue;
      contenders.push_back({"uniform " + describe(uniform), std::move(plan)});
      smallest_group = group_size;
    }
  return contenders;
}

// Of the layers' divergences at the narrowest candidate.
double most_to_mean(const std::vector<KvSensitivity>& sensitivities) {
  std::map<int, double> by_layer;
  for (const KvSensitivity& part : sensitivities)
    by_layer[part.layer] += part.costs.front().kl;
  double most = 0, sum = 0;
  for (const auto& [layer, kl] : by_layer) {
    most = std::max(most, kl);
    sum += kl;
  }
  return sum > 0 ? most * static_cast<double>(by_layer.size()) / sum : 1;
}

std::string baseline_name(const KvFormat& format, int group_size) {
  if (format.group_size == 0 || format.group_size == group_size)
    return fmt::format("uniform_{}bit", format.bits);
  return fmt::format("uniform_{}bit_g{}", format.bits, format.group_size);
}

}  // namespace

std::vector<int> default_kv_bits(std::string_view format) {
  return format == "affine" ? std::vector{4, 8} : std::vector{2, 3, 4};
}

KvCacheResult choose_kv_cache(models::Model& model,
                              const sensitivity::Tokenize& tokenize,
                              const KvCacheOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  const auto progress = [&](std::string_view stage, std::int64_t done,
                            std::int64_t total) {
    if (options.progress) options.progress(stage, done, total);
  };
  // What cannot succeed fails now, not after the measuring.
  const std::vector<KvFormat> formats = candidates(options);
  const auto& shapes = model.layer_shapes();
  if (std::ranges::none_of(shapes, [](const auto& s) { return s.n_kv_heads > 0; }))
    throw std::invalid_argument("MODEL: expected attention layers, found none");
  if (options.seq_len > model.config().max_position_embeddings)
    throw std::invalid_argument(fmt::format(
        "--seq-len: the model takes at most {} tokens (max_position_embeddings), "
        "found {}",
        model.config().max_position_embeddings, options.seq_len));
  KvCacheOutput output(options.output);
  const sensitivity::Calibration text = draw(options, tokenize);

  KvCacheResult result;
  result.output = options.output;
  result.layer_names = layer_names(model);
  result.n_sequences = static_cast<int>(text.windows.size());
  result.n_held_out = static_cast<int>(text.held_out.size());
  result.seq_len = static_cast<int>(text.windows.front().size());

  progress("reference", 0, 2);
  CacheMeter meter(model, text.windows);
  progress("reference", 1, 2);
  CacheMeter held_out(model, text.held_out);
  progress("reference", 2, 2);

  sensitivity::KvMeasureOptions measure{formats, options.separate_kv, {}, {}};
  measure.cache.float_type = FloatType::kF32;
  measure.cache.seed = options.rotation_seed;
  if (options.center_keys)
    for (const auto& [layer, channels] : meter.channels())
      measure.cache.channels[layer].k_mean = channels.k_mean;
  if (options.equalize) {
    measure.cache.channels = sensitivity::equalize(
        model, meter,
        {formats.front(), measure.cache, [&](std::int64_t done, std::int64_t total) {
           progress("channels", done, total);
         }});
    meter.restart();
    for (const auto& [layer, channels] : measure.cache.channels) {
      result.n_layers_with_scaled_keys += channels.k_scale.empty() ? 0 : 1;
      result.n_layers_with_scaled_values += channels.v_scale.empty() ? 0 : 1;
    }
  }
  measure.progress = [&](std::int64_t done, std::int64_t total) {
    progress("sensitivity", done, total);
  };
  result.sensitivities = sensitivity::measure_kv(model, meter, measure);
  result.most_to_mean = most_to_mean(result.sensitivities);

  const sensitivity::Allocation allocation =
      sensitivity::allocate(sensitivity::kv_items(result.sensitivities),
                            sensitivity::BitsPerWeight{options.target_bits});
  progress("joint verification", 0, 3);
  const KvPlan measured =
      sensitivity::refine_kv(result.sensitivities, allocation, meter, measure.cache,
                             n_swaps(result.sensitivities.size()))
          .plan;
  progress("joint verification", 1, 3);

  const auto verify = [&](const KvPlan& plan) {
    const sensitivity::Divergence d =
        held_out.measure(sensitivity::with_plan(measure.cache, plan), true);
    return KvVerified{sensitivity::average_bits(shapes, plan),
                      sensitivity::page_bytes(shapes, plan) / kPageTokens, d.mean,
                      d.p99};
  };
  result.plan = measured;
  result.chosen = "measured";
  result.verified = verify(measured);
  // The allocation assumes that divergences add up; where they do not, uniform may win.
  std::map<std::string, KvPlan> baselines;
  for (Contender& uniform : uniform_contenders(
           shapes, options.format, sensitivity::page_bytes(shapes, measured))) {
    const KvVerified verified = verify(uniform.plan);
    const KvFormat& format = uniform.plan.begin()->second.k;
    result.baselines[baseline_name(format, options.group_size)] = verified;
    // Other widths than those that were asked for are only shown.
    const bool asked_for =
        std::ranges::find(formats, format.bits, &KvFormat::bits) != formats.end();
    if (!asked_for || verified.kl_mean >= result.verified.kl_mean) continue;
    result.plan = uniform.plan;
    result.chosen = uniform.label;
    result.verified = verified;
  }
  progress("joint verification", 2, 3);
  std::vector<KvFormat> around = formats;
  for (int b : default_kv_bits(options.format))
    around.push_back(kv_format(info_of(options.format).name, b, options.group_size));
  for (const KvFormat& format : around)
    if (const auto key = baseline_name(format, options.group_size);
        !result.baselines.contains(key))
      result.baselines[key] = verify(sensitivity::uniform_kv_plan(shapes, format));
  progress("joint verification", 3, 3);

  output.write(result, measure.cache.channels);
  result.seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace optiq::convert
