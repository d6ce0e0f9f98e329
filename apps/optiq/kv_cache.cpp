#include "optiq/convert/kv_cache.h"

#include <memory>

#include "command.h"
#include "measuring.h"
#include "number_list.h"
#include "optiq/base/error.h"
#include "optiq/base/format.h"
#include "optiq/base/memory.h"
#include "optiq/generate/loaded_model.h"
#include "optiq/sensitivity/sample_tokens.h"
#include "request_options.h"

namespace optiq::app {
namespace {

using Json = nlohmann::ordered_json;
using sensitivity::KvPart;

struct Flags {
  std::string model;
  std::string output;
  convert::KvCacheOptions options;
};

// The name of a format without what the whole run has in common.
std::string bits_of(const KvFormat& format) {
  return format.group_size > 0 ? fmt::format("{} g{}", format.bits, format.group_size)
                               : std::to_string(format.bits);
}

Json json_of(const convert::KvVerified& v) {
  return {{"average_bits", v.average_bits},
          {"bytes_per_token", v.bytes_per_token},
          {"kl_mean", v.kl_mean},
          {"kl_p99", v.kl_p99}};
}

Json summary_of(const convert::KvCacheResult& result) {
  Json layers = Json::array(), baselines = Json::object();
  for (const auto& part : result.sensitivities) {
    if (layers.empty() || layers.back()["layer_idx"] != part.layer) {
      const auto& [k, v] = result.plan.at(part.layer);
      layers.push_back(
          {{"layer_idx", part.layer},
           {"layer_name", result.layer_names[static_cast<std::size_t>(part.layer)]},
           {"k", describe(k)},
           {"v", describe(v)},
           {"k_bits", k.bits},
           {"v_bits", v.bits}});
    }
    const char* key = part.part == KvPart::kKeysAndValues ? "sensitivities"
                      : part.part == KvPart::kKeys        ? "k_sensitivities"
                                                          : "v_sensitivities";
    for (const auto& cost : part.costs)
      layers.back()[key][std::to_string(cost.format.bits)] = cost.kl;
  }
  for (const auto& [name, v] : result.baselines) baselines[name] = json_of(v);
  Json summary = {{"output", result.output.string()}, {"layers", layers}};
  summary.update(json_of(result.verified));
  summary.update({{"allocation", result.chosen},
                  {"most_to_mean_sensitivity", result.most_to_mean},
                  {"layers_with_scaled_keys", result.n_layers_with_scaled_keys},
                  {"layers_with_scaled_values", result.n_layers_with_scaled_values},
                  {"baselines", baselines},
                  {"sequences", result.n_sequences},
                  {"held_out_sequences", result.n_held_out},
                  {"seq_len", result.seq_len},
                  {"seconds", result.seconds},
                  {"peak_rss_bytes", peak_rss_bytes()}});
  return summary;
}

void print_layers(const convert::KvCacheResult& result, Output& out) {
  std::vector<std::string> head = {"layer", "part"};
  for (const auto& cost : result.sensitivities.front().costs)
    head.push_back(fmt::format(">KL at {} bits", cost.format.bits));
  head.emplace_back(">chosen");
  Table table(head);
  for (const auto& part : result.sensitivities) {
    const auto& [k, v] = result.plan.at(part.layer);
    std::vector<std::string> row = {
        result.layer_names[static_cast<std::size_t>(part.layer)],
        part.part == KvPart::kKeysAndValues ? "k, v"
        : part.part == KvPart::kKeys        ? "k"
                                            : "v"};
    for (const auto& cost : part.costs) row.push_back(fmt::format("{:.3e}", cost.kl));
    row.push_back(bits_of(part.part == KvPart::kValues ? v : k));
    table.add_row(row);
  }
  out.print(
      "{}\nKL(float cache || that part alone quantized), nats per token of the later "
      "half of {} sequences of {} tokens.\nThe most sensitive layer has {:.2f} times "
      "the mean.\n\n",
      table.text(), result.n_sequences, result.seq_len, result.most_to_mean);
}

void print(const convert::KvCacheResult& result, Output& out) {
  print_layers(result, out);
  Table table({"cache", ">bits", ">bytes/token", ">mean KL", ">p99 KL"});
  const auto row = [&](const std::string& name, const convert::KvVerified& v) {
    table.add_row({name, fmt::format("{:.3f}", v.average_bits),
                   std::to_string(v.bytes_per_token), fmt::format("{:.6f}", v.kl_mean),
                   fmt::format("{:.5f}", v.kl_p99)});
  };
  for (const auto& [name, v] : result.baselines) row(name, v);
  row("optiq", result.verified);
  out.print("{}\nKL on {} held-out sequences.\n", table.text(), result.n_held_out);
  out.print("channels scaled alike: keys of {} layers, values of {}\n",
            result.n_layers_with_scaled_keys, result.n_layers_with_scaled_values);
  out.print("allocation: {}{}\n", result.chosen,
            result.chosen == "measured"
                ? ""
                : ", kept because it is better than the measured mix at no more bytes");
  for (const auto& [name, v] : result.baselines)
    if (v.bytes_per_token <= result.verified.bytes_per_token &&
        v.kl_mean < result.verified.kl_mean)
      out.print("{} is better at no more bytes: add its width to --candidate-bits\n",
                name);
  out.print("{}: in {}\n", (result.output / "kv_config.json").string(),
            format_duration(result.seconds));
}

void run_kv_cache(Flags flags, Context& context) {
  convert::KvCacheOptions& options = flags.options;
  options.output = flags.output;
  options.rotation_seed = context.seed;
  if (context.seed != 0) options.seed = context.seed;
  if (std::filesystem::exists(options.output) &&
      !std::filesystem::is_directory(options.output))
    throw ResourceError(
        fmt::format("{}: expected a directory, found a file", flags.output));
  const LoadedModel model = load(flags.model);

  options.progress = progress_by_stage();
  const auto result = convert::choose_kv_cache(
      *model.model, sensitivity::tokenize_with(*model.tokenizer, model.chat_template),
      options);
  options.progress = nullptr;
  print(result, context.out);
  context.out.summary(summary_of(result));
}

}  // namespace

Run add_kv_cache(CLI::App& app) {
  auto flags = std::make_shared<Flags>();
  convert::KvCacheOptions& o = flags->options;
  add_model_argument(app, flags->model);
  app.add_option("-o,--output", flags->output,
                 "The directory for kv_config.json and kv_sensitivity.json")
      ->required()
      ->type_name("DIR");
  app.add_option("--target-bits", o.target_bits,
                 "Average bits of cached keys and values, scales not counted")
      ->capture_default_str()
      ->check(number_in(1, 16));
  add_number_list(app, "--candidate-bits", o.candidate_bits,
                  "Widths to choose among (affine: 4,8; turbo: 2,3,4)", 1, 32);
  app.add_option("--n-samples", o.n_samples,
                 "Sequences to measure on; as many others verify the choice")
      ->capture_default_str()
      ->check(CLI::Range(1, 100000).description(""));
  app.add_option("--seq-len", o.seq_len, "Tokens of a sequence")
      ->capture_default_str()
      ->check(CLI::Range(8, 1 << 20).description(""));
  app.add_option("--group-size", o.group_size,
                 "Values that share a scale and a bias, for affine")
      ->capture_default_str()
      ->check(CLI::Range(1, 1024).description(""));
  app.add_option("--format", o.format,
                 "affine, turbo, or turbo-qjl: its keys by inner products")
      ->capture_default_str()
      ->check(CLI::IsMember({"affine", "turbo", "turbo-qjl"}).description(""))
      ->type_name("affine|turbo|turbo-qjl");
  app.add_flag("--separate-kv", o.separate_kv,
               "Measure keys and values apart, and choose bits for each");
  app.add_flag("--center-keys,!--no-center-keys", o.center_keys,
               "Take the mean of each channel off the keys (kv_channels.safetensors; "
               "the default)");
  app.add_flag(
      "--equalize,!--no-equalize", o.equalize,
      "Scale the channels of keys and of values alike in each layer where that "
      "measures better (kv_channels.safetensors; the default)");
  add_calibration_option(app, o.calibration);
  return [flags](Context& context) { run_kv_cache(*flags, context); };
}

}  // namespace optiq::app
