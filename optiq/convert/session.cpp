#include "optiq/convert/session.h"

#include <fmt/format.h>

#include <optional>
#include <stdexcept>

#include "optiq/base/memory.h"
#include "optiq/base/signal.h"
#include "optiq/checkpoint/quantization_config.h"
#include "optiq/convert/mlx_form.h"
#include "optiq/models/registry.h"
#include "optiq/quantize/linear_weight.h"
#include "optiq/sensitivity/sample_tokens.h"
#include "optiq/sensitivity/static_costs.h"
#include "optiq/text/chat_template.h"
#include "optiq/text/tokenizer.h"

namespace optiq::convert {
namespace {

using json = nlohmann::ordered_json;

checkpoint::Checkpoint open_source(const Options& options) {
  checkpoint::OpenOptions open{checkpoint::Residency::kMapped, true, true};
  auto source = checkpoint::Checkpoint::open(options.model, open);
  const auto file = options.model / "config.json";
  if (checkpoint::parse_quantization(source.config(), file) &&
      !checkpoint::packed_config(source.config(), file))
    throw std::invalid_argument(fmt::format(
        "MODEL: expected a checkpoint in float form, {} is quantized already",
        options.model.string()));
  return source;
}

sensitivity::Calibration draw_calibration(const Options& options) {
  const auto tokenizer = text::Tokenizer::load(options.model);
  const auto chat = text::ChatTemplate::load(options.model, tokenizer);
  const auto samples = options.calibration == "builtin"
                           ? sensitivity::builtin_samples()
                           : sensitivity::read_samples(options.calibration);
  sensitivity::CalibrationOptions calibration;
  calibration.source = options.calibration;
  calibration.n_windows = options.n_calibration;
  calibration.window_tokens = options.calibration_length;
  calibration.n_held_out = std::max(1, options.n_calibration / 3);
  calibration.seed = options.seed;
  return sensitivity::make_calibration(samples, calibration,
                                       sensitivity::tokenize_with(tokenizer, chat));
}

// The rule of mlx-optiq: the model's own weights where they take at most 70 % of the
// memory that is free.
bool fits(ReferenceChoice choice, std::uint64_t weight_bytes) {
  if (choice != ReferenceChoice::kAuto) return choice == ReferenceChoice::kBf16;
  return static_cast<double>(weight_bytes) <=
         0.7 * static_cast<double>(available_memory_bytes());
}

// Who asks for a reference asks to be measured against it.
bool measures_by_gradients(const Options& options) {
  if (options.method != Method::kOptiq || options.sensitivity_file) return false;
  return options.measuring == Measuring::kGradient ||
         (options.measuring == Measuring::kAuto &&
          options.reference != ReferenceChoice::kUniform4Bit);
}

}  // namespace

Session::Session(const Options& options) : source_(open_source(options)) {
  if (options.runs_the_model()) calibration_ = draw_calibration(options);
  const MlxForm form(source_);
  for (const std::string& name : form.tensors()) {
    std::int64_t n = 1;
    for (std::int64_t d : source_.info(name).shape) n *= d;
    params_ += n;
  }
  model_ = models::load(source_);
  fits_memory_ = fits(options.reference, source_.tensor_bytes());
  by_gradients_ = measures_by_gradients(options);
  if (!fits_memory_ && !by_gradients_)
    reference_ = sensitivity::Reference::kUniform4Bit;
}

std::vector<std::vector<int>> Session::measured_windows() const {
  // Tokens times weights of one pass, and windows at least.
  constexpr double kWork = 3e12;
  const auto& all = calibration_.windows;
  if (!by_gradients_) return all;
  const std::size_t fewest = std::min<std::size_t>(all.size(), 4);
  std::size_t n = 0;
  for (double work = 0; n < all.size() && (n < fewest || work < kWork); ++n)
    work += static_cast<double>(all[n].size()) * static_cast<double>(params_);
  return {all.begin(), all.begin() + static_cast<std::ptrdiff_t>(n)};
}

sensitivity::Sensitivities Session::static_sensitivities(
    const std::vector<QuantSpec>& formats, const Options& options) {
  sensitivity::Sensitivities result;
  result.method = "static";
  const bool of_weights = options.method == Method::kStatic;
  const auto modules = model_->linears();
  for (std::size_t i = 0; i < modules.size(); ++i) {
    throw_if_interrupted();
    const models::LinearModule* module = modules[i];
    const kernels::LinearWeight& w = module->weight;
    const int N = w.output_dim(), K = w.input_dim();
    sensitivity::LayerSensitivity layer{
        module->path, module->layer, static_cast<std::int64_t>(N) * K, {}};
    const double priority =
        sensitivity::structural_priority(module->path, model_->n_layers());
    for (const QuantSpec& spec : formats) {
      if (!quantize::fits(spec, K)) continue;
      const double error =
          of_weights ? sensitivity::relative_squared_error(w, spec, options.rounding)
                     : sensitivity::relative_squared_error(spec);
      layer.formats.push_back(
          {spec, quantize::encoded_bytes(spec, N, K, quantize::scale_type_of(w)),
           priority * error, 0, error});
    }
    result.layers.push_back(std::move(layer));
    if (of_weights && options.progress)
      options.progress("rounding errors", static_cast<std::int64_t>(i + 1),
                       static_cast<std::int64_t>(modules.size()));
  }
  return result;
}

nlohmann::json Session::identity(const std::vector<QuantSpec>& formats,
                                 const Options& options) const {
  nlohmann::json specs = nlohmann::json::array(), files = nlohmann::json::array();
  for (const QuantSpec& spec : formats) specs.push_back(describe(spec));
  for (const auto& file : source_.files()) {
    const auto written = std::filesystem::last_write_time(file).time_since_epoch();
    files.push_back(
        {file.filename().string(), std::filesystem::file_size(file), written.count()});
  }
  return {{"files", files},
          {"formats", specs},
          {"calibration", calibration_.fingerprint},
          {"windows", calibration_.windows.size()},
          {"reference", sensitivity::name(reference_)},
          {"rounding", static_cast<int>(options.rounding)},
          {"gradients", by_gradients_},
          {"seed", options.seed},
          {"compensated", by_gradients_ && options.compensates()},
          {"version", 3}};
}

}  // namespace optiq::convert
