// Perplexity and divergence on windows of a text.
#include <algorithm>
#include <cmath>
#include <memory>

#include "eval_tasks.h"
#include "optiq/base/error.h"
#include "optiq/base/file.h"
#include "optiq/base/progress.h"
#include "optiq/eval/heldout.h"
#include "optiq/eval/kl.h"
#include "optiq/eval/perplexity.h"

namespace optiq::app {
namespace {

using Json = nlohmann::ordered_json;

eval::ForwardOptions forward_of(const EvalOptions& options) {
  return {options.exact ? kernels::Activation::kExact : kernels::Activation::kInt8,
          options.cache};
}

// The windows of --data, or of the text that comes with optiq.
std::vector<eval::Window> windows_of(const EvalOptions& options,
                                     const LoadedModel& model, int default_length) {
  constexpr std::size_t kLimitBytes = std::size_t{1} << 30;
  const std::string text = options.data.empty() ? std::string(eval::heldout_text())
                                                : read_file(options.data, kLimitBytes);
  const int limit = model.model->config().max_position_embeddings;
  if (options.lengths.size() > 1)
    throw UsageError(fmt::format("--length: --task {} takes one, found {}",
                                 options.task, options.lengths.size()));
  const int length =
      options.lengths.empty() ? std::min(default_length, limit) : options.lengths[0];
  if (length > limit)
    throw UsageError(fmt::format(
        "--length: the model takes at most {} tokens, found {}", limit, length));
  const std::vector<int> tokens = encode_raw(model, text);
  return eval::cut_windows(tokens, {.length = length, .count = options.n_samples});
}

// A bar over the tokens of all windows.
eval::ProgressCallback progress_bar(const std::string& what) {
  const auto bar = std::make_shared<std::unique_ptr<Progress>>();
  return [bar, what](std::int64_t done, std::int64_t total) {
    if (!*bar) *bar = std::make_unique<Progress>(what, total, "tokens");
    (*bar)->set(done);
    if (done == total) bar->reset();
  };
}

}  // namespace

void add_estimate(Json& summary, const std::string& key,
                  const eval::Estimate& estimate) {
  summary[key] = estimate.mean;
  summary[key + "_interval"] = {estimate.interval.low, estimate.interval.high};
}

Json eval_perplexity(const EvalOptions& options, EvalModels& models, Context& context) {
  const auto windows = windows_of(options, models.model, 2048);
  const auto result = eval::measure_perplexity(
      *models.model.model, windows,
      {.forward = forward_of(options), .on_progress = progress_bar("perplexity")});
  context.out.print(
      "perplexity {:.4f} (nll {:.5f} ± {:.5f} nats) over {} tokens in {} "
      "windows\n",
      result.perplexity(), result.nll, result.nll_error, result.tokens, result.windows);
  Json summary = {{"task", "perplexity"},          {"n", result.tokens},
                  {"windows", result.windows},     {"nll", result.nll},
                  {"nll_error", result.nll_error}, {"perplexity", result.perplexity()}};
  if (!models.reference) return summary;
  const auto reference =
      eval::measure_perplexity(*models.reference->model, windows,
                               {.forward = {kernels::Activation::kExact, std::nullopt},
                                .on_progress = progress_bar("reference")});
  const eval::Estimate change = eval::nll_change(reference, result);
  context.out.print(
      "  of the reference {:.4f}; nll {:+.5f} nats (95 % interval {:+.5f} to "
      "{:+.5f})\n",
      reference.perplexity(), change.mean, change.interval.low, change.interval.high);
  summary["reference_nll"] = reference.nll;
  summary["reference_perplexity"] = reference.perplexity();
  add_estimate(summary, "nll_change", change);
  return summary;
}

Json eval_kl(const EvalOptions& options, EvalModels& models, Context& context) {
  const auto windows = windows_of(options, models.model, 1024);
  const auto r = eval::measure_kl(
      *models.reference->model, *models.model.model, windows,
      {.forward = forward_of(options), .on_progress = progress_bar("kl")});
  context.out.print(
      "KL(reference || model) {:.6f} nats (95 % interval {:.6f} to {:.6f}), p99 "
      "{:.5f}, "
      "other first choice {:.2f} %\n"
      "  perplexity {:.4f}, of the reference {:.4f}: nll {:+.5f} nats ({:+.5f} to "
      "{:+.5f}); {} tokens in {} windows\n",
      r.kl.mean, r.kl.interval.low, r.kl.interval.high, r.kl_p99,
      100 * r.flip_rate.mean, std::exp(r.nll), std::exp(r.reference_nll),
      r.nll_change.mean, r.nll_change.interval.low, r.nll_change.interval.high,
      r.tokens, r.windows);
  Json summary = {{"task", "kl"}, {"n", r.tokens}, {"windows", r.windows}};
  add_estimate(summary, "kl_mean", r.kl);
  summary["kl_error"] = r.kl_error;
  summary["kl_p99"] = r.kl_p99;
  summary["top1_agreement"] = 1 - r.flip_rate.mean;
  add_estimate(summary, "flip_rate", r.flip_rate);
  summary["nll"] = r.nll;
  summary["perplexity"] = std::exp(r.nll);
  summary["reference_nll"] = r.reference_nll;
  summary["reference_perplexity"] = std::exp(r.reference_nll);
  add_estimate(summary, "nll_change", r.nll_change);
  return summary;
}

}  // namespace optiq::app
