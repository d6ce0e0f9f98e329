#include "optiq/convert/convert.h"

#include <memory>

#include "command.h"
#include "measuring.h"
#include "number_list.h"
#include "optiq/base/format.h"
#include "optiq/generate/model_location.h"
#include "request_options.h"

namespace optiq::app {
namespace {

struct Flags {
  convert::Options options;
  std::string output;
  std::optional<std::string> target_size;
  std::string mode = "affine";
  std::string method = "optiq";
  std::string reference = "auto";
  std::string protection = "auto";
  std::string rounding = "search";
  std::string sensitivity;
  std::string measure = "auto";
  bool compensate = false;
  bool no_compensate = false;
  bool refine = false;
  bool no_refine = false;
};

template <class T>
T choice(const std::string& flag, const std::string& value,
         std::initializer_list<std::pair<const char*, T>> choices) {
  std::string known;
  for (const auto& [text, result] : choices) {
    if (value == text) return result;
    known += (known.empty() ? "" : ", ") + std::string(text);
  }
  throw UsageError(
      fmt::format("{}: expected one of {}, found '{}'", flag, known, value));
}

// mlx-optiq's rule: optiq_output/<model id with / and . as _>, and the method.
std::string default_output(const convert::Options& options, const std::string& method) {
  std::string name = options.model_name;
  for (char& c : name)
    if (c == '/' || c == '.') c = '_';
  return "optiq_output/" + name + "/" +
         (method == "uniform" ? method : method + "_mixed");
}

std::int64_t size_of(const std::string& text) {
  try {
    return static_cast<std::int64_t>(parse_bytes(text));
  } catch (const std::invalid_argument& error) {
    throw UsageError(fmt::format("--target-size: {}", error.what()));
  }
}

nlohmann::ordered_json number_or_null(const std::optional<double>& value) {
  return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json();
}

nlohmann::ordered_json summary_of(const convert::Result& result) {
  nlohmann::ordered_json baselines = nlohmann::ordered_json::object(), layers;
  for (const auto& [name, b] : result.baselines)
    baselines[name] = {{"bytes", b.bytes},
                       {"bpw_disk", b.bpw_disk},
                       {"kl_mean", b.kl_mean},
                       {"kl_p99", b.kl_p99}};
  for (const auto& layer : result.layers) {
    nlohmann::ordered_json row = {{"name", layer.name},
                                  {"params", layer.params},
                                  {"bytes", layer.bytes},
                                  {"sensitivity", layer.sensitivity}};
    row["bits"] = layer.spec ? nlohmann::ordered_json(layer.spec->bits) : nullptr;
    row["group_size"] =
        layer.spec ? nlohmann::ordered_json(layer.spec->group_size) : nullptr;
    row["mode"] = layer.spec ? nlohmann::ordered_json(name(layer.spec->mode)) : nullptr;
    layers.push_back(std::move(row));
  }
  return {{"output", result.output.string()},
          {"bytes", result.bytes},
          {"params", result.params},
          {"bpw", result.bpw},
          {"bpw_disk", result.bpw_disk},
          {"kl_mean", number_or_null(result.kl_mean)},
          {"kl_p99", number_or_null(result.kl_p99)},
          {"kl_mean_uncompensated", number_or_null(result.kl_mean_uncompensated)},
          {"compensated", result.compensated},
          {"kl_mean_undistilled", number_or_null(result.kl_mean_undistilled)},
          {"allocation", result.chosen},
          {"reference", sensitivity::name(result.reference)},
          {"baselines", baselines},
          {"layers", layers},
          {"seconds", result.seconds},
          {"peak_rss_bytes", result.peak_rss_bytes}};
}

void print(const convert::Result& result, Output& out) {
  Table table({"model", ">MB", ">bits/weight on disk", ">mean KL", ">p99 KL"});
  const auto row = [&](const std::string& name, std::int64_t bytes, double bpw,
                       std::optional<double> mean, std::optional<double> p99) {
    table.add_row({name, fmt::format("{:.2f}", static_cast<double>(bytes) / 1e6),
                   fmt::format("{:.3f}", bpw),
                   mean ? fmt::format("{:.5f}", *mean) : "-",
                   p99 ? fmt::format("{:.4f}", *p99) : "-"});
  };
  for (const auto& [name, b] : result.baselines)
    row(name + " (MLX rounding)", b.bytes, b.bpw_disk, b.kl_mean, b.kl_p99);
  row("optiq", result.bytes, result.bpw_disk, result.kl_mean, result.kl_p99);
  std::map<int, std::int64_t> params_by_bits;
  for (const auto& layer : result.layers)
    params_by_bits[layer.spec ? layer.spec->bits : 16] += layer.params;
  std::string mix;
  for (const auto& [bits, params] : params_by_bits)
    mix += fmt::format(
        "{}{} bits {:.1f} %", mix.empty() ? "" : ", ", bits,
        100.0 * static_cast<double>(params) / static_cast<double>(result.params));
  out.print(
      "{}\n{}\n", table.text(),
      result.kl_mean
          ? "KL(reference || quantized) in nats per token on held-out text."
          : "The model was not run: without --skip-baselines its KL is measured.");
  out.print("allocation: {}; weights by width: {}; {:.3f} bits on average\n",
            result.chosen, mix, result.bpw);
  if (result.kl_mean_uncompensated)
    out.print("codes chosen so that they make up for each other: {}\n",
              result.compensated
                  ? fmt::format("mean KL {:.5f} without", *result.kl_mean_uncompensated)
                  : "tried, and no better");
  if (result.kl_mean_undistilled)
    out.print("scales and biases trained: mean KL {:.5f} without\n",
              *result.kl_mean_undistilled);
  out.print("report: {}\n", (result.output / "optiq/report.html").string());
  out.print("{}: {} in {}\n", result.output.string(),
            format_bytes(static_cast<std::uint64_t>(result.bytes)),
            format_duration(result.seconds));
}

void run_convert(Flags flags, Context& context) {
  convert::Options& options = flags.options;
  const auto mode = quant_mode_from_name(flags.mode);
  if (!mode)
    throw UsageError(
        fmt::format("--mode: expected affine, mxfp4, mxfp8 or nvfp4, "
                    "found '{}'",
                    flags.mode));
  options.mode = *mode;
  options.method = choice<convert::Method>("--method", flags.method,
                                           {{"optiq", convert::Method::kOptiq},
                                            {"static", convert::Method::kStatic},
                                            {"uniform", convert::Method::kUniform}});
  options.reference = choice<convert::ReferenceChoice>(
      "--reference", flags.reference,
      {{"auto", convert::ReferenceChoice::kAuto},
       {"bf16", convert::ReferenceChoice::kBf16},
       {"uniform_4bit", convert::ReferenceChoice::kUniform4Bit}});
  options.protection =
      choice<convert::Protection>("--protect", flags.protection,
                                  {{"auto", convert::Protection::kAuto},
                                   {"on", convert::Protection::kOn},
                                   {"off", convert::Protection::kOff}});
  options.measuring =
      choice<convert::Measuring>("--measure", flags.measure,
                                 {{"auto", convert::Measuring::kAuto},
                                  {"exact", convert::Measuring::kExact},
                                  {"gradient", convert::Measuring::kGradient}});
  if (flags.compensate || flags.no_compensate) options.compensate = flags.compensate;
  options.rounding = choice<quantize::Search>(
      "--rounding", flags.rounding,
      {{"search", quantize::Search::kSearch}, {"mlx", quantize::Search::kMlx}});
  if (flags.compensate &&
      (options.rounding == quantize::Search::kMlx || *mode != QuantMode::kAffine))
    throw UsageError("--compensate: expected --rounding search and --mode affine");
  if (!flags.sensitivity.empty()) options.sensitivity_file = flags.sensitivity;
  if (flags.target_size) options.target_size = size_of(*flags.target_size);
  if (flags.refine || flags.no_refine) options.refine = flags.refine;
  if (context.seed != 0) options.seed = context.seed;
  options.model_name = flags.options.model_name;
  options.model = find_model(options.model_name);
  options.output =
      flags.output.empty() ? default_output(options, flags.method) : flags.output;

  options.progress = progress_by_stage();
  const convert::Result result = convert::convert(options);
  options.progress = nullptr;
  print(result, context.out);
  context.out.summary(summary_of(result));
}

}  // namespace

Run add_convert(CLI::App& app) {
  auto flags = std::make_shared<Flags>();
  convert::Options& o = flags->options;
  add_model_argument(app, o.model_name);
  app.add_option("-o,--output", flags->output,
                 "The directory to write (optiq_output/<model>/<method>_mixed)")
      ->type_name("DIR");
  app.add_option("--target-bpw", o.target_bpw,
                 "Average bits of the quantized weights, scales not counted")
      ->capture_default_str()
      ->check(number_in(1, 16));
  app.add_option("--target-size", flags->target_size,
                 "Instead: bytes of all weight files, such as 4.8GB")
      ->type_name("BYTES");
  add_number_list(app, "--candidate-bits", o.candidate_bits, "Widths to choose among",
                  1, 32);
  app.add_option(
      "--group-size", o.group_size,
      "Weights that share a scale (default: 64, and 128 where that is better)");
  app.add_option("--mode", flags->mode, "affine, mxfp4, mxfp8 or nvfp4")
      ->capture_default_str();
  app.add_option("--method", flags->method,
                 "optiq (measured), static (by a layer's place and rounding error, "
                 "without running the model) or uniform")
      ->capture_default_str();
  app.add_option("--reference", flags->reference,
                 "What layers are measured against: auto, bf16 or uniform_4bit")
      ->capture_default_str();
  app.add_option("--protect", flags->protection,
                 "Weigh head, embedding, first and last block more: on, off, or auto "
                 "(whichever measures better)")
      ->capture_default_str();
  add_calibration_option(app, o.calibration);
  app.add_option("--n-calibration", o.n_calibration, "Windows of calibration text")
      ->capture_default_str()
      ->check(CLI::Range(1, 100000));
  app.add_option("--calibration-length", o.calibration_length, "Tokens of a window")
      ->capture_default_str()
      ->check(CLI::Range(8, 1 << 20));
  app.add_option("--rounding", flags->rounding,
                 "How codes are chosen: search (never worse), or as mlx does")
      ->capture_default_str();
  auto* compensate =
      app.add_flag("--compensate", flags->compensate,
                   "Choose codes so that those of a row make up for each other's "
                   "errors: with method optiq it is the default");
  app.add_flag("--no-compensate", flags->no_compensate, "Choose each code for itself")
      ->excludes(compensate);
  app.add_option(
         "--distill", o.distill_epochs,
         "Train scales and biases for what the model says, in N passes over the "
         "calibration at most")
      ->type_name("N")
      ->capture_default_str()
      ->check(CLI::Range(0, 1000));
  app.add_option("--measure", flags->measure,
                 "How much each matrix loses at each width: exact, by forward calls; "
                 "gradient, by one pass back; auto, gradient unless --reference is "
                 "uniform_4bit")
      ->capture_default_str();
  app.add_option("--sensitivity", flags->sensitivity,
                 "An earlier run's optiq/sensitivity.json, instead of measuring")
      ->type_name("FILE");
  app.add_flag("--tie-fused", o.tie_fused,
               "One width for q, k, v, and one for gate and up");
  auto* refine = app.add_flag(
      "--refine", flags->refine,
      "Measure again around the chosen widths: the default where they were measured "
      "exactly; by gradients it takes longer than all else and has found nothing");
  app.add_flag("--no-refine", flags->no_refine, "Take the chosen widths as they are")
      ->excludes(refine);
  app.add_flag("--skip-baselines", o.skip_baselines,
               "Do not measure uniform widths for comparison; static and uniform then "
               "run no model at all");
  app.add_flag("--resume", o.resume, "Go on with what an interrupted run has measured");
  return [flags](Context& context) { run_convert(*flags, context); };
}

}  // namespace optiq::app
