#include "optiq/sensitivity/divergence.h"

#include <gtest/gtest.h>

#include <cmath>

#include "optiq/models/registry.h"
#include "optiq/quantize/linear_weight.h"
#include "optiq/sensitivity/measure.h"
#include "optiq/sensitivity/testing.h"

namespace optiq::sensitivity {
namespace {

// A tiny random hybrid: three gated delta nets to one attention layer, 512 tokens.
std::unique_ptr<models::Model> tiny_model() {
  return models::load(std::filesystem::path(OPTIQ_SOURCE_DIR) /
                      "tests/data/golden/qwen3_5_text");
}

void quantize(models::LinearModule& module, int bits) {
  module.weight = quantize::as_linear_weight(
      quantize::encode(module.weight, {QuantMode::kAffine, bits, 32}, {},
                       quantize::Search::kMlx),
      module.weight.bias);
}

TEST(Divergence, AModelDoesNotDivergeFromItself) {
  const auto model = tiny_model();
  DivergenceMeter meter(*model, windows(3, 40), {});
  const Divergence d = meter.measure({.with_p99 = true});
  EXPECT_LT(d.mean, 1e-9);
  EXPECT_LT(d.p99, 1e-9);
  EXPECT_EQ(d.top1_agreement, 1);
}

TEST(Divergence, IsTheSameFromEveryStageBeforeTheChangedLayer) {
  const auto model = tiny_model();
  DivergenceMeter meter(*model, windows(3, 40), {.batch_tokens = 80});
  for (models::LinearModule* module : model->linears())
    if (module->layer == 2) quantize(*module, 3);
  const Divergence whole = meter.measure();
  EXPECT_GT(whole.mean, 1e-4);
  for (int stage = 0; stage <= 2; ++stage) {
    meter.advance_to(stage);
    EXPECT_EQ(meter.measure().mean, whole.mean) << "from stage " << stage;
  }
}

TEST(Divergence, DoesNotDependOnWhetherReferenceLogitsAreHeld) {
  const auto a = tiny_model(), b = tiny_model();
  DivergenceMeter held(*a, windows(2, 33), {});
  DivergenceMeter computed(*b, windows(2, 33), {.reference_bytes = 0});
  // The head among them: the reference must keep its own.
  for (const auto& model : {a.get(), b.get()})
    for (models::LinearModule* module : model->linears()) quantize(*module, 4);
  EXPECT_EQ(held.measure().window_means, computed.measure().window_means);
}

TEST(Divergence, ARebasedReferenceIsTheModelAsItWasWithItsLogitsHeldOrNot) {
  std::vector<double> means[2];
  for (const bool held : {true, false}) {
    const auto model = tiny_model();
    DivergenceOptions options{.batch_tokens = 64};
    if (!held) options.reference_bytes = 0;
    DivergenceMeter meter(*model, windows(3, 33), options);
    for (models::LinearModule* module : model->linears()) quantize(*module, 4);
    meter.advance_to(1);
    const Extent extent{.n_windows = 2, .every_second_token = true};
    meter.rebase(extent);
    // Four bits everywhere are no divergence from four bits everywhere.
    EXPECT_LT(meter.measure(extent).mean, 1e-9);
    for (models::LinearModule* module : model->linears())
      if (module->layer == 2) quantize(*module, 2);
    means[held] = meter.measure(extent).window_means;
    EXPECT_GT(means[held][0], 1e-4);
    meter.restart();  // the model's own weights again
    EXPECT_GT(meter.measure(extent).mean, means[held][0]);
  }
  EXPECT_EQ(means[0], means[1]);
}

TEST(Divergence, FewerWindowsAreAPrefixAndEverySecondTokenIsClose) {
  const auto model = tiny_model();
  DivergenceMeter meter(*model, windows(5, 64), {.batch_tokens = 128});
  for (models::LinearModule* module : model->linears()) quantize(*module, 4);
  const Divergence all = meter.measure(), three = meter.measure({.n_windows = 3});
  ASSERT_EQ(three.window_means.size(), 3u);
  for (std::size_t i = 0; i < 3; ++i)
    EXPECT_NEAR(three.window_means[i], all.window_means[i], 1e-6);
  const Divergence half = meter.measure({.every_second_token = true});
  EXPECT_NEAR(half.mean, all.mean, 0.25 * all.mean);
}

TEST(Divergence, StatisticsAreTheMeanSquaresOfInputs) {
  const auto model = tiny_model();
  InputStatistics statistics;
  DivergenceMeter meter(*model, windows(2, 40), {}, &statistics);
  EXPECT_EQ(statistics.tokens, 80);
  for (const models::LinearModule* module : model->linears()) {
    const auto means = statistics.mean_squares(module->path);
    ASSERT_EQ(means.size(), static_cast<std::size_t>(module->weight.input_dim()));
    double sum = 0;
    for (float value : means) sum += value;
    EXPECT_TRUE(std::isfinite(sum) && sum > 0) << module->path;
  }
}

TEST(Measure, WiderFormatsCostLessAndWeightsAreRestored) {
  const auto model = tiny_model();
  InputStatistics statistics;
  DivergenceMeter meter(*model, windows(4, 32), {}, &statistics);
  MeasureOptions options;
  options.formats = {{QuantMode::kAffine, 2, 32},
                     {QuantMode::kAffine, 4, 32},
                     {QuantMode::kAffine, 8, 32}};
  options.ratio_windows = 2;
  const Sensitivities s = measure(*model, meter, statistics, options);
  ASSERT_EQ(s.layers.size(), model->linears().size());
  for (const LayerSensitivity& layer : s.layers) {
    ASSERT_EQ(layer.formats.size(), 3u);
    EXPECT_GT(layer.formats[0].kl, layer.formats[1].kl) << layer.name;
    EXPECT_GT(layer.formats[1].kl, layer.formats[2].kl) << layer.name;
    EXPECT_GT(layer.formats[0].weight_error, layer.formats[2].weight_error);
  }
  meter.restart();
  EXPECT_LT(meter.measure().mean, 1e-9);
}

TEST(Measure, KnownLayersAreNotMeasuredAgain) {
  const auto model = tiny_model();
  InputStatistics statistics;
  DivergenceMeter meter(*model, windows(1, 32), {}, &statistics);
  MeasureOptions options;
  options.formats = {{QuantMode::kAffine, 4, 32}};
  for (const models::LinearModule* module : model->linears())
    options.known[module->path] = {
        module->path, module->layer, 1, {{options.formats[0], 1, 42.0, 0, 0}}};
  for (const LayerSensitivity& layer :
       measure(*model, meter, statistics, options).layers)
    EXPECT_EQ(layer.formats[0].kl, 42.0);
}

}  // namespace
}  // namespace optiq::sensitivity
