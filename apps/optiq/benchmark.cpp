#include <algorithm>
#include <memory>

#include "bandwidth.h"
#include "benchmark_run.h"
#include "command.h"
#include "optiq/base/format.h"
#include "optiq/base/memory.h"
#include "optiq/base/parallel.h"
#include "optiq/base/progress.h"
#include "optiq/base/simd_target.h"
#include "optiq/generate/loaded_model.h"
#include "request_options.h"

namespace optiq::app {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  std::string model;
  int prompt = 512;
  int decode = 128;
  std::vector<int> depths = {0, 4096, 16384};
  std::vector<int> batches = {1, 8};
  int repeat = 5;
  bool exact = false;
};

// Depths that fit the model's context with what is decoded behind them.
std::vector<int> usable_depths(const Options& options, int limit, bool chosen) {
  std::vector<int> depths;
  for (int depth : options.depths) {
    if (depth + options.decode <= limit)
      depths.push_back(depth);
    else if (chosen)
      throw UsageError(fmt::format(
          "--depth: the model takes {} tokens, found {} and {} to decode behind them",
          limit, depth, options.decode));
  }
  return depths;
}

void benchmark(const Options& options, bool depths_chosen, Context& context) {
  LoadedModel loaded = load(options.model, {.text = false});
  models::Model& model = *loaded.model;
  const int limit = model.config().max_position_embeddings;
  if (options.prompt > limit)
    throw UsageError(
        fmt::format("--prompt: the model takes at most {} tokens, found {}", limit,
                    options.prompt));
  const auto depths = usable_depths(options, limit, depths_chosen);
  BenchmarkOptions run{.repeat = options.repeat, .seed = context.seed};
  if (options.exact) {
    run.activation = kernels::Activation::kExact;
    run.kv_type = FloatType::kF32;
  }
  const auto n_prefill = options.prompt > 0 ? options.batches.size() : 0;
  const auto n_decode = options.decode > 0 ? options.batches.size() * depths.size() : 0;
  Progress bar("benchmark", static_cast<std::int64_t>(n_prefill + n_decode + 1),
               "runs");
  Table table({"", ">batch", ">depth", ">tokens/s"});
  Json prefill = Json::array(), decode = Json::array();
  for (int batch : n_prefill > 0 ? options.batches : std::vector<int>{}) {
    const double tps =
        prefill_rate(model, {.batch = batch, .tokens = options.prompt}, run);
    bar.advance();
    prefill.push_back({{"tokens", options.prompt}, {"batch", batch}, {"tps", tps}});
    table.add_row({fmt::format("prefill {}", options.prompt), fmt::format("{}", batch),
                   "0", fmt::format("{:.1f}", tps)});
  }
  double reached = 0;
  for (int depth : n_decode > 0 ? depths : std::vector<int>{})
    for (int batch : options.batches) {
      const double tps = decode_rate(
          model, {.batch = batch, .tokens = options.decode, .depth = depth}, run);
      bar.advance();
      if (depth == 0)
        reached =
            std::max(reached, tps / batch * static_cast<double>(step_bytes(model)));
      decode.push_back({{"depth", depth}, {"batch", batch}, {"tps", tps}});
      table.add_row({fmt::format("decode {}", options.decode), fmt::format("{}", batch),
                     fmt::format("{}", depth), fmt::format("{:.1f}", tps)});
    }

  const std::uint64_t peak = peak_rss_bytes();  // without the block that is read now
  const double bandwidth = read_bandwidth();
  bar.advance();
  context.out.write(table.text());
  context.out.print(
      "weights {}, read at {:.1f} GB/s while decoding at depth 0 (this machine reads "
      "{:.1f} GB/s); peak memory {}\n",
      format_bytes(static_cast<std::uint64_t>(model.weight_bytes())), reached / 1e9,
      bandwidth / 1e9, format_bytes(peak));
  context.out.summary({{"model", options.model},
                       {"prefill", prefill},
                       {"decode", decode},
                       {"bandwidth_reached_bytes_per_s", reached},
                       {"read_bandwidth_bytes_per_s", bandwidth},
                       {"model_bytes", model.weight_bytes()},
                       {"threads", thread_count()},
                       {"simd", name(simd_target())},
                       {"repeat", options.repeat},
                       {"exact", options.exact},
                       {"peak_rss_bytes", peak}});
}

}  // namespace

Run add_benchmark(CLI::App& app) {
  constexpr int kMost = 1 << 24;
  auto options = std::make_shared<Options>();
  add_model_argument(app, options->model);
  app.add_option("--prompt", options->prompt, "Tokens to prefill; 0 skips")
      ->check(CLI::Range(0, kMost).description(""))
      ->type_name("N")
      ->capture_default_str();
  app.add_option("--decode", options->decode, "Tokens to decode; 0 skips")
      ->check(CLI::Range(0, kMost).description(""))
      ->type_name("N")
      ->capture_default_str();
  const auto* depth =
      app.add_option("--depth", options->depths,
                     "Tokens in the cache before decoding (default: those of "
                     "0,4096,16384 that the model takes)")
          ->check(CLI::Range(0, kMost).description(""))
          ->delimiter(',')
          ->type_name("N,N,...");
  app.add_option("--batch", options->batches, "Sequences at a time")
      ->check(CLI::Range(1, 4096).description(""))
      ->delimiter(',')
      ->type_name("N,N,...")
      ->capture_default_str();
  app.add_option("--repeat", options->repeat, "Runs of which the median is reported")
      ->check(CLI::Range(1, 1000).description(""))
      ->type_name("N")
      ->capture_default_str();
  app.add_flag("--exact", options->exact,
               "Compute in float32, without int8 activations and float16 cache");
  return [options, depth](Context& context) {
    benchmark(*options, depth->count() > 0, context);
  };
}

}  // namespace optiq::app
