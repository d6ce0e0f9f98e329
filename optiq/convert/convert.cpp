#include "optiq/convert/convert.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "optiq/base/error.h"
#include "optiq/base/file.h"
#include "optiq/base/memory.h"
#include "optiq/convert/choose.h"
#include "optiq/convert/compensate.h"
#include "optiq/convert/curve.h"
#include "optiq/convert/distill.h"
#include "optiq/convert/encoder.h"
#include "optiq/convert/session.h"
#include "optiq/convert/sidecars.h"
#include "optiq/convert/write.h"
#include "optiq/sensitivity/gradient_costs.h"
#include "optiq/sensitivity/measure.h"

namespace optiq::convert {
namespace {

using sensitivity::Divergence;
using sensitivity::DivergenceMeter;
using sensitivity::Sensitivities;

constexpr int kRefineRounds = 2;
constexpr int kGroupSize = 64;
constexpr int kWideGroupSize = 128;
// What tells an earlier result, which is replaced, from any other model, which is not.
constexpr const char* kResultMarker = "optiq/metadata.json";

// Of n windows, how many a single layer is measured on; joint measurements take all.
// docs/decisions/sensitivity.md has what fewer windows cost in quality.
int anchor_windows(int n) { return std::max(8, n / 2); }
int ratio_windows(int n) { return std::max(3, n / 6); }
int step_windows(int n) { return std::max(3, n / 6); }

// What a conversion may hold beside the model that it runs. Where the model's own
// weights do not fit, everything held is a small share of them: then the 4-bit copy is
// the largest part.
struct Memory {
  std::int64_t logits = 4LL << 30;        // of each reference
  std::int64_t encoded_kept = 2LL << 30;  // encoded tensors, for their next use
  std::int64_t layer_inputs = 1LL << 30;  // of all layers, on their way forward
  std::uint64_t freed_kept = 512 << 20;   // by the allocator

  explicit Memory(const Session& session) {
    if (session.fits_memory()) {
      // Text that does not fit is not used: models of some billions want more of it.
      layer_inputs = std::max(layer_inputs,
                              static_cast<std::int64_t>(available_memory_bytes() / 4));
      return;
    }
    const auto share = static_cast<std::int64_t>(session.source().tensor_bytes() / 16);
    logits = std::min(logits, share);
    encoded_kept = std::min(encoded_kept, share);
    layer_inputs = std::max(
        share, std::min(layer_inputs,
                        static_cast<std::int64_t>(available_memory_bytes() / 8)));
    freed_kept = std::min(freed_kept, static_cast<std::uint64_t>(share));
  }
};

// By rising bits, of the group size that is asked for.
std::vector<QuantSpec> candidate_formats(const Options& options) {
  std::vector<int> bits = options.candidate_bits;
  std::ranges::sort(bits);
  bits.erase(std::unique(bits.begin(), bits.end()), bits.end());
  std::vector<QuantSpec> formats;
  for (int b : bits) {
    const QuantSpec spec{options.mode, b, options.group_size.value_or(kGroupSize)};
    if (!is_supported(spec))
      throw std::invalid_argument(fmt::format(
          "--candidate-bits, --group-size, --mode: there is no {}", describe(spec)));
    formats.push_back(spec);
  }
  if (formats.empty())
    throw std::invalid_argument("--candidate-bits: expected at least one width");
  return formats;
}

// Those and what else costs nothing to measure by gradients: wide groups where no size
// was asked for. By rising bits, then by falling groups.
std::vector<QuantSpec> with_more_groups(std::vector<QuantSpec> formats,
                                        const Options& options) {
  const auto add = [&](const QuantSpec& spec) {
    if (is_supported(spec) && std::ranges::find(formats, spec) == formats.end())
      formats.push_back(spec);
  };
  if (!options.group_size)
    for (const QuantSpec& spec : candidate_formats(options))
      add({spec.mode, spec.bits, kWideGroupSize});
  std::ranges::sort(formats, [](const QuantSpec& a, const QuantSpec& b) {
    return a.bits != b.bits ? a.bits < b.bits : a.group_size > b.group_size;
  });
  return formats;
}

void set_allocation(Result& result, const checkpoint::Checkpoint& source,
                    const std::vector<Matrix>& matrices, const Plan& plan,
                    const Sensitivities& sensitivities) {
  result.bpw = average_bits(matrices, plan);
  result.bytes = planned_bytes(source, plan);
  result.bpw_disk =
      8.0 * static_cast<double>(result.bytes) / static_cast<double>(result.params);
  for (const Matrix& matrix : matrices) {
    const auto& spec = plan.at(matrix.path);
    LayerResult layer{matrix.path, spec, matrix.params(), matrix.bytes(spec), 0};
    for (const auto& measured : sensitivities.layers)
      if (measured.name == matrix.path && !measured.formats.empty()) {
        std::vector<QuantSpec> specs;
        for (const auto& cost : measured.formats) specs.push_back(cost.spec);
        layer.sensitivity = measured.formats[sensitivity::anchor_format(specs)].kl;
      }
    result.layers.push_back(layer);
  }
}

std::vector<Contender> contenders(const Options& options, Session& session,
                                  const std::vector<Matrix>& matrices,
                                  const Sensitivities& sensitivities,
                                  const PlanBudget& budget) {
  std::vector<Contender> all;
  const bool measured = options.method == Method::kOptiq;
  const auto add = [&](bool protect) {
    all.push_back(
        {std::string(measured ? "measured" : "by place and rounding error") +
             (protect ? ", with head, embedding, first and last block protected" : ""),
         allocate_plan(session.source(), matrices, sensitivities, budget,
                       session.model().n_layers(), protect, options.tie_fused),
         0});
  };
  const bool both = options.protection == Protection::kAuto;
  if (both || options.protection == Protection::kOff) add(false);
  if (both || options.protection == Protection::kOn) add(true);
  if (!measured) return {all.back()};
  for (Contender& uniform :
       uniform_contenders(session.source(), matrices, budget, options.mode,
                          options.candidate_bits, options.group_size))
    all.push_back(std::move(uniform));
  return all;
}

// The widest candidate within the budget, for all matrices.
Contender uniform_within(const std::vector<QuantSpec>& formats,
                         const PlanBudget& budget, const Session& session,
                         const std::vector<Matrix>& matrices) {
  for (auto spec = formats.rbegin(); spec != formats.rend(); ++spec) {
    Plan plan = uniform_plan(matrices, *spec);
    if (budget.allows(session.source(), matrices, plan))
      return {"uniform " + describe(*spec), std::move(plan), 0};
  }
  throw std::invalid_argument(
      "--target-bpw, --target-size: no candidate width is within the budget");
}

}  // namespace

Result convert(const Options& options) {
  const auto start = std::chrono::steady_clock::now();
  const auto progress = [&](std::string_view stage, std::int64_t done,
                            std::int64_t total) {
    if (options.progress) options.progress(stage, done, total);
  };
  const std::vector<QuantSpec> formats = candidate_formats(options);
  // What cannot succeed fails now, not after an hour of measuring: an output that
  // cannot be written, a budget that no allocation meets, a file that is not there.
  AtomicDirectory output(options.output, kResultMarker);
  Session session(options);
  const bool measures = options.method == Method::kOptiq;
  const Memory memory(session);
  keep_freed_memory(memory.freed_kept);
  const PlanBudget budget{options.target_bpw, options.target_size};
  Sensitivities sensitivities = session.static_sensitivities(formats, options);
  {
    const Encoder unmeasured(session.model(), {});
    allocate_plan(session.source(), unmeasured.matrices(), sensitivities, budget,
                  session.model().n_layers(), /*protect=*/false, options.tie_fused);
    if (measures && options.sensitivity_file)
      sensitivities =
          read_sensitivities(*options.sensitivity_file, unmeasured.matrices(), formats,
                             with_more_groups(formats, options));
  }
  Result result;
  result.output = options.output;
  result.params = session.params();
  result.reference = session.reference();

  // Reference answers and input statistics, on calibration and held-out windows. The
  // reference is the model's own weights however little memory there is: a walk reads
  // each layer from the map once. Without measurements the choice and the codes follow
  // from the weights alone, and held-out text only tells how good they are.
  sensitivity::InputStatistics statistics;
  std::optional<DivergenceMeter> meter, held_out;
  if (options.runs_the_model()) {
    progress("reference", 0, 1);
    const sensitivity::DivergenceOptions held{.reference_bytes = memory.logits};
    if (measures)
      meter.emplace(session.model(), session.measured_windows(), held, &statistics);
    held_out.emplace(session.model(), session.calibration().held_out, held);
    progress("reference", 1, 1);
  }
  Encoder encoder(session.model(), statistics, memory.encoded_kept);
  const std::vector<Matrix>& matrices = encoder.matrices();

  const bool gradients = session.by_gradients();
  const std::vector<QuantSpec> measured_formats =
      gradients ? with_more_groups(formats, options) : formats;
  SavedLayers saved(output.target(), session.identity(measured_formats, options));
  auto known = options.resume ? saved.load() : decltype(saved.load()){};
  if (gradients) {
    sensitivity::GradientCostOptions costs;
    costs.formats = measured_formats;
    costs.search = options.rounding;
    costs.input_bytes = memory.layer_inputs;
    costs.known = std::move(known);
    costs.on_costs = [&](const auto& layer) { saved.add(layer); };
    // Experts measured as a whole read all layers behind them once more, from the disk.
    costs.probe = session.fits_memory();
    costs.probe_windows = ratio_windows(meter->n_windows());
    costs.seed = options.seed;
    costs.on_layer = [&](std::size_t done, std::size_t total) {
      progress("sensitivity", static_cast<std::int64_t>(done),
               static_cast<std::int64_t>(total));
    };
    if (options.compensates()) {
      costs.encode = [&](const models::LinearModule& module,
                         std::span<const QuantSpec> specs, const quantize::Moments& H) {
        return compensated(module, specs, H, options.rounding);
      };
    }
    sensitivities =
        sensitivity::gradient_costs(session.model(), *meter, session.measured_windows(),
                                    encoder.statistics(), costs);
  } else if (measures && !options.sensitivity_file) {
    sensitivity::MeasureOptions measure;
    measure.formats = formats;
    measure.search = options.rounding;
    measure.anchor_windows = anchor_windows(meter->n_windows());
    measure.ratio_windows = ratio_windows(meter->n_windows());
    measure.known = std::move(known);
    if (session.reference() == sensitivity::Reference::kUniform4Bit) {
      encoder.apply(uniform_plan(matrices, {QuantMode::kAffine, 4, 64}),
                    quantize::Search::kMlx);
      measure.own_weights = [&](const std::string& path) {
        return encoder.original(path);
      };
    }
    measure.on_layer = [&](const auto& layer, std::size_t done, std::size_t total) {
      saved.add(layer);
      progress("sensitivity", static_cast<std::int64_t>(done),
               static_cast<std::int64_t>(total));
    };
    sensitivities =
        sensitivity::measure(session.model(), *meter, encoder.statistics(), measure);
    encoder.restore();
  }
  sensitivities.reference = session.reference();

  // The choice, by what errors will cost once codes make up for each other.
  Sensitivities costs = sensitivities;
  const bool candidates = measures && options.compensates() && !gradients;
  if (candidates) {
    const auto uniform_formats = [&] {
      std::vector<QuantSpec> specs;
      for (const Contender& one :
           uniform_contenders(session.source(), matrices, budget, options.mode,
                              options.candidate_bits, options.group_size))
        for (const auto& [path, spec] : one.plan)
          if (spec && std::ranges::find(specs, *spec) == specs.end())
            specs.push_back(*spec);
      return specs;
    };
    compensate_candidates(encoder, costs, uniform_formats(), options.rounding,
                          session.calibration().windows, [&](int done, int total) {
                            progress("candidates", done, total);
                          });
  }
  Contender chosen;
  if (options.method == Method::kUniform) {
    chosen = uniform_within(formats, budget, session, matrices);
  } else {
    const auto all = contenders(options, session, matrices, costs, budget);
    if (measures) progress("joint verification", 0, 1);
    chosen = all.size() == 1 ? all.front() : verify_jointly(encoder, *meter, all);
    if (measures && options.refine.value_or(!gradients))
      chosen =
          refine(session.source(), encoder, *meter, costs, budget, std::move(chosen),
                 options.tie_fused, kRefineRounds, step_windows(meter->n_windows()));
    if (measures)
      chosen = fill(session.source(), encoder, *meter, costs, budget, std::move(chosen),
                    options.tie_fused);
    if (measures) progress("joint verification", 1, 1);
  }
  result.chosen = chosen.label;
  set_allocation(result, session.source(), matrices, chosen.plan, sensitivities);

  if (held_out) {
    const auto measured = [&] {
      encoder.apply(chosen.plan, options.rounding);
      held_out->restart();
      return held_out->measure({.with_p99 = true});
    };
    Divergence d;
    if (options.compensates()) {
      // Codes by the inputs of the source's own layers, where candidates were encoded
      // so, and by those of the layers as they are written.
      std::optional<Divergence> by_source;
      if (candidates) by_source = measured();
      compensate(encoder, chosen.plan, options.rounding, session.calibration().windows,
                 [&](int done, int total) { progress("compensation", done, total); });
      const Divergence in_sequence = measured();
      Encoder::Kept kept = encoder.exchange_kept({});
      Encoder::Kept offers = encoder.exchange_offered({});
      const Divergence plain = measured();
      result.kl_mean_uncompensated = plain.mean;
      d = plain;
      if (by_source && by_source->mean < d.mean) d = *by_source;
      if (in_sequence.mean < d.mean) {
        d = in_sequence;
        encoder.exchange_kept(std::move(kept));
      }
      result.compensated = d.mean < plain.mean;
      if (result.compensated) encoder.exchange_offered(std::move(offers));
    } else {
      d = measured();
    }
    if (options.distill_epochs > 0) {
      result.kl_mean_undistilled = d.mean;
      distill(
          encoder, chosen.plan, options.rounding, session.calibration().windows,
          [&] {
            held_out->restart();
            return held_out->measure().mean;
          },
          {.epochs = options.distill_epochs},
          [&](int done, int total) { progress("distillation", done, total); });
      d = measured();
    }
    result.kl_mean = d.mean;
    result.kl_p99 = d.p99;
    encoder.restore();
    if (!options.skip_baselines) {
      progress("baselines", 0, 1);
      measure_curve(result, session.source(), encoder, *held_out,
                    measures ? &costs : nullptr, options);
      progress("baselines", 1, 1);
    }
  }

  progress("writing", 0, 1);
  Sidecars sidecars{metadata_json(options, result), nullptr};
  if (measures)
    sidecars.sensitivity = to_json(sensitivities, options.model_name,
                                   options.group_size.value_or(kGroupSize));
  result.bytes = write_model(session.source(), encoder, chosen.plan, options.rounding,
                             sidecars, output);
  saved.remove();
  progress("writing", 1, 1);

  result.seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  result.peak_rss_bytes = static_cast<std::int64_t>(peak_rss_bytes());
  return result;
}

}  // namespace optiq::convert
