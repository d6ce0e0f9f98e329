#include "optiq/sensitivity/gradient_costs.h"

#include <gtest/gtest.h>

#include <cmath>
#include <utility>

#include "optiq/models/registry.h"
#include "optiq/quantize/linear_weight.h"
#include "optiq/sensitivity/testing.h"

namespace optiq::sensitivity {
namespace {

std::vector<QuantSpec> formats() {
  return {{QuantMode::kAffine, 5, 32}, {QuantMode::kAffine, 8, 32}};
}

// The correlation of the logarithms of both costs at a format.
double agreement(const Sensitivities& a, const Sensitivities& b, std::size_t format) {
  std::vector<double> x, y;
  for (std::size_t i = 0; i < a.layers.size(); ++i) {
    x.push_back(std::log(a.layers[i].formats[format].kl));
    y.push_back(std::log(b.layers[i].formats[format].kl));
  }
  const auto n = static_cast<double>(x.size());
  double mx = 0, my = 0, xx = 0, yy = 0, xy = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    mx += x[i] / n;
    my += y[i] / n;
  }
  for (std::size_t i = 0; i < x.size(); ++i) {
    xx += (x[i] - mx) * (x[i] - mx);
    yy += (y[i] - my) * (y[i] - my);
    xy += (x[i] - mx) * (y[i] - my);
  }
  return xy / std::sqrt(xx * yy);
}

// A model and what it answers to a text.
struct Measured {
  explicit Measured(const char* name)
      : model(models::load(std::filesystem::path(OPTIQ_SOURCE_DIR) /
                           "tests/data/golden" / name)) {}

  std::unique_ptr<models::Model> model;
  std::vector<std::vector<int>> text = windows(8, 40);
  InputStatistics statistics;
  DivergenceMeter meter{*model, text, {}, &statistics};
};

// One of each kind of layer: gated delta nets, Gemma's, packed matrices, experts.
TEST(GradientCosts, OrderMatricesAsMeasuringEachOfThemDoes) {
  for (const char* name : {"qwen3_5_text", "gemma4_text", "phi3_longrope", "qwen3_moe",
                           "qwen3_5_moe_vlm"}) {
    SCOPED_TRACE(name);
    Measured at(name);
    auto& [model, text, statistics, meter] = at;
    MeasureOptions exactly;
    exactly.formats = formats();
    const Sensitivities exact = measure(*model, meter, statistics, exactly);
    meter.restart();
    GradientCostOptions options;
    options.formats = formats();
    std::size_t done = 0, total = 0;
    options.on_layer = [&](std::size_t d, std::size_t t) {
      EXPECT_EQ(d, done + 1);
      done = d;
      total = t;
    };
    const Sensitivities costs =
        gradient_costs(*model, meter, text, statistics, options);
    EXPECT_EQ(done, total);
    ASSERT_EQ(costs.layers.size(), exact.layers.size());
    for (std::size_t i = 0; i < costs.layers.size(); ++i) {
      const LayerSensitivity &ours = costs.layers[i], &theirs = exact.layers[i];
      EXPECT_EQ(ours.name, theirs.name);
      ASSERT_EQ(ours.formats.size(), theirs.formats.size());
      for (std::size_t f = 0; f < ours.formats.size(); ++f) {
        EXPECT_EQ(ours.formats[f].bytes, theirs.formats[f].bytes);
        EXPECT_DOUBLE_EQ(ours.formats[f].weight_error, theirs.formats[f].weight_error);
        EXPECT_GT(ours.formats[f].kl, 0) << ours.name;
      }
      EXPECT_GT(ours.formats[0].kl, ours.formats[1].kl) << ours.name;
    }
    EXPECT_GT(agreement(costs, exact, 0), 0.75);
    EXPECT_GT(agreement(costs, exact, 1), 0.75);
    meter.restart();
    EXPECT_LT(meter.measure().mean, 1e-9);
  }
}

// Encodes as without moments, and counts rows.
struct CountingEncoder {
  std::int64_t rows = 0;

  auto encode(const InputStatistics& statistics) {
    return [this, &statistics](const models::LinearModule& module,
                               std::span<const QuantSpec> specs,
                               const quantize::Moments&) {
      std::vector<quantize::EncodedTensor> tensors;
      for (const QuantSpec& spec : specs)
        tensors.push_back(quantize::encode(module.weight, spec,
                                           statistics.mean_squares(module.path),
                                           quantize::Search::kSearch));
      rows += module.weight.output_dim() * std::ssize(specs);
      return tensors;
    };
  }
};

// Some rows say what all say: 256 of 384 and of the vocabulary's 512.
TEST(GradientCosts, SomeRowsStandForAll) {
  for (const char* name : {"qwen3_5_text", "mistral", "qwen3_moe"}) {
    SCOPED_TRACE(name);
    Measured at(name);
    auto& [model, text, statistics, meter] = at;
    GradientCostOptions options;
    options.formats = formats();
    CountingEncoder counting;
    options.encode = counting.encode(statistics);
    const Sensitivities all = gradient_costs(*model, meter, text, statistics, options);
    const std::int64_t of_all = std::exchange(counting.rows, 0);
    meter.restart();
    options.work = 0;
    const Sensitivities some = gradient_costs(*model, meter, text, statistics, options);
    EXPECT_LT(counting.rows, of_all);
    for (std::size_t i = 0; i < all.layers.size(); ++i)
      EXPECT_EQ(all.layers[i].formats[0].bytes, some.layers[i].formats[0].bytes);
    EXPECT_GT(agreement(all, some, 0), 0.98);
    EXPECT_GT(agreement(all, some, 1), 0.98);
  }
}

// What is told of a format is what it costs.
TEST(GradientCosts, FormatsTellOfEachOther) {
  for (const char* name : {"qwen3_5_text", "mistral"}) {
    SCOPED_TRACE(name);
    Measured at(name);
    auto& [model, text, statistics, meter] = at;
    GradientCostOptions options;
    for (int bits : {2, 3, 4, 5, 8})
      for (int group : {64, 32})
        options.formats.push_back({QuantMode::kAffine, bits, group});
    const Sensitivities measured =
        gradient_costs(*model, meter, text, statistics, options);
    meter.restart();
    CountingEncoder counting;
    options.encode = counting.encode(statistics);
    const Sensitivities told = gradient_costs(*model, meter, text, statistics, options);
    std::int64_t rows = 0;
    for (const models::LinearModule* module : model->linears())
      rows += module->weight.output_dim();
    EXPECT_LE(counting.rows, 3 * rows);
    EXPECT_GT(counting.rows, 2 * rows);
    for (std::size_t f = 0; f < options.formats.size(); ++f) {
      SCOPED_TRACE(describe(options.formats[f]));
      double mean = 0;  // of the logarithms of what is told over what is measured
      for (std::size_t i = 0; i < told.layers.size(); ++i) {
        ASSERT_EQ(told.layers[i].formats.size(), options.formats.size());
        mean +=
            std::log(told.layers[i].formats[f].kl / measured.layers[i].formats[f].kl) /
            static_cast<double>(told.layers.size());
      }
      EXPECT_NEAR(mean, 0, 0.15);
      EXPECT_GT(agreement(told, measured, f), 0.97);
    }
  }
}

}  // namespace
}  // namespace optiq::sensitivity
