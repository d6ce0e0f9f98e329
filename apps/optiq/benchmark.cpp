#include <algorithm>
#include <memory>

#include "benchmark_run.h"
#include "cache_flags.h"
#include "command.h"
#include "number_list.h"
#include "optiq/base/error.h"
#include "optiq/base/format.h"
#include "optiq/base/memory.h"
#include "optiq/base/parallel.h"
#include "optiq/base/progress.h"
#include "optiq/base/read_bandwidth.h"
#include "optiq/base/simd_target.h"
#include "optiq/cache/kv_cache.h"
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
  CacheFlags cache;
};

// What decoding was measured to do.
struct DecodeStep {
  BenchmarkShape shape;
  double tps;
  double bytes;  // read by one step
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

// Refuses sequences that would not fit, which the system would answer by ending us.
void check_memory(const Options& options, const std::vector<int>& depths,
                  const cache::KvCache& cache) {
  std::int64_t tokens = options.prompt;
  if (options.decode > 0)
    for (int depth : depths)
      tokens = std::max<std::int64_t>(tokens, depth + options.decode);
  std::int64_t batch = 0;
  for (int n : options.batches) batch = std::max<std::int64_t>(batch, n);
  const auto wanted = static_cast<std::uint64_t>(
      batch * (cache.bytes(tokens) + cache.recurrent_bytes()));
  const std::uint64_t available = available_memory_bytes();
  if (available > 0 && wanted > available)
    throw ResourceError(
        fmt::format("--batch, --depth: {} sequences of {} tokens need {} of memory, {} "
                    "is available",
                    batch, tokens, format_bytes(wanted), format_bytes(available)));
}

void benchmark(const Options& options, bool depths_chosen, Context& context) {
  BenchmarkOptions run{.cache = cache_options_of(options.cache, context.seed),
                       .repeat = options.repeat,
                       .seed = context.seed};
  LoadedModel loaded = load(options.model, {.text = false});
  models::Model& model = *loaded.model;
  const int limit = model.config().max_position_embeddings;
  if (options.prompt > limit)
    throw UsageError(
        fmt::format("--prompt: the model takes at most {} tokens, found {}", limit,
                    options.prompt));
  const auto depths = usable_depths(options, limit, depths_chosen);
  if (options.exact) {
    run.activation = kernels::Activation::kExact;
    run.cache.float_type = FloatType::kF32;
  }
  const cache::KvCache cache(model.layer_shapes(), run.cache);
  check_memory(options, depths, cache);
  const auto n_prefill = options.prompt > 0 ? options.batches.size() : 0;
  const auto n_decode = options.decode > 0 ? options.batches.size() * depths.size() : 0;
  Progress bar("benchmark", static_cast<std::int64_t>(n_prefill + n_decode + 1),
               "runs");
  Table table({"", ">batch", ">depth", ">tokens/s", ">of bandwidth"});
  Json prefill = Json::array(), decode = Json::array();
  for (int batch : n_prefill > 0 ? options.batches : std::vector<int>{}) {
    const double tps =
        prefill_rate(model, {.batch = batch, .tokens = options.prompt}, run);
    bar.advance();
    prefill.push_back({{"tokens", options.prompt}, {"batch", batch}, {"tps", tps}});
    table.add_row({fmt::format("prefill {}", options.prompt), fmt::format("{}", batch),
                   "0", fmt::format("{:.1f}", tps), ""});
  }
  std::vector<DecodeStep> steps;
  for (int depth : n_decode > 0 ? depths : std::vector<int>{})
    for (int batch : options.batches) {
      const BenchmarkShape shape{
          .batch = batch, .tokens = options.decode, .depth = depth};
      steps.push_back({shape, decode_rate(model, shape, run),
                       static_cast<double>(step_bytes(model, shape, cache))});
      bar.advance();
    }

  const std::uint64_t peak = peak_rss_bytes();  // without the block that is read now
  const double bandwidth = ReadBandwidth().median();
  bar.advance();
  double reached = 0;
  for (const DecodeStep& step : steps) {
    const double rate = step.tps / step.shape.batch * step.bytes;
    reached = std::max(reached, rate);
    decode.push_back({{"depth", step.shape.depth},
                      {"batch", step.shape.batch},
                      {"tps", step.tps},
                      {"step_bytes", step.bytes},
                      {"bandwidth_share", rate / bandwidth}});
    table.add_row({fmt::format("decode {}", options.decode),
                   fmt::format("{}", step.shape.batch),
                   fmt::format("{}", step.shape.depth), fmt::format("{:.1f}", step.tps),
                   fmt::format("{:.1f} %", 100 * rate / bandwidth)});
  }
  context.out.write(table.text());
  context.out.print(
      "weights {}, {} bytes of keys and values a token; decoding reads up to {:.1f} "
      "GB/s "
      "of the {:.1f} that this machine reads; peak memory {}\n",
      format_bytes(static_cast<std::uint64_t>(model.weight_bytes())),
      cache.bytes_per_token(), reached / 1e9, bandwidth / 1e9, format_bytes(peak));
  Json summary = {{"model", options.model},
                  {"prefill", prefill},
                  {"decode", decode},
                  {"bandwidth_reached_bytes_per_s", reached},
                  {"read_bandwidth_bytes_per_s", bandwidth},
                  {"model_bytes", model.weight_bytes()},
                  {"threads", thread_count()},
                  {"simd", name(simd_target())},
                  {"repeat", options.repeat},
                  {"exact", options.exact}};
  add_cache_summary(cache, summary);
  summary["peak_rss_bytes"] = peak;
  context.out.summary(summary);
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
      add_number_list(app, "--depth", options->depths,
                      "Tokens in the cache before decoding (default: those of "
                      "0,4096,16384 that the model takes)",
                      0, kMost);
  add_number_list(app, "--batch", options->batches, "Sequences at a time", 1, 4096);
  app.add_option("--repeat", options->repeat, "Runs of which the median is reported")
      ->check(CLI::Range(1, 1000).description(""))
      ->type_name("N")
      ->capture_default_str();
  app.add_flag("--exact", options->exact,
               "Compute in float32, without int8 activations and float16 cache");
  add_cache_flags(app, options->cache);
  return [options, depth](Context& context) {
    if (options->prompt == 0 && options->decode == 0)
      throw UsageError("--prompt, --decode: expected one of them above 0");
    benchmark(*options, depth->count() > 0, context);
  };
}

}  // namespace optiq::app
