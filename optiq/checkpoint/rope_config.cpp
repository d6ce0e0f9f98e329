#include "optiq/checkpoint/rope_config.h"

#include <fmt/format.h>

#include <cmath>
#include <numeric>
#include <optional>
#include <string>

#include "optiq/checkpoint/fields.h"

namespace optiq::checkpoint {
namespace {

struct RopeTypeRow {
  const char* name;
  RopeType type;
};
constexpr RopeTypeRow kRopeTypes[] = {
    {"default", RopeType::kDefault},
    {"linear", RopeType::kLinear},
    {"llama3", RopeType::kLlama3},
    {"yarn", RopeType::kYarn},
};

constexpr double kMaxFactor = 1e6;
constexpr std::int64_t kMaxPositions = std::int64_t{1} << 30;

RopeType rope_type(const Fields& rope) {
  const char* key = rope.has("rope_type") ? "rope_type" : "type";
  const std::string name = rope.text_or(key, "default");
  std::string known;
  for (const RopeTypeRow& row : kRopeTypes) {
    if (row.name == name) return row.type;
    known += (known.empty() ? "" : ", ") + std::string(row.name);
  }
  rope.fail(key, "one of " + known);
}

double yarn_mscale(double factor, double mscale) {
  return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1;
}

void read_yarn(const Fields& rope, RopeConfig& config) {
  config.beta_fast = rope.number_or("beta_fast", 32, 1e-6, kMaxFactor);
  config.beta_slow = rope.number_or("beta_slow", 1, 1e-6, kMaxFactor);
  if (config.beta_fast < config.beta_slow)
    rope.fail("beta_fast", fmt::format("at least beta_slow, {}", config.beta_slow));
  config.truncate = rope.boolean_or("truncate", true);
  const double mscale = rope.number_or("mscale", 0, 0, kMaxFactor);
  const double mscale_all_dim = rope.number_or("mscale_all_dim", 0, 0, kMaxFactor);
  const double inferred = mscale != 0 && mscale_all_dim != 0
                              ? yarn_mscale(config.factor, mscale) /
                                    yarn_mscale(config.factor, mscale_all_dim)
                              : yarn_mscale(config.factor, 1);
  config.attention_factor = rope.number_or("attention_factor", inferred, 0, kMaxFactor);
}

}  // namespace

RopeConfig parse_rope(const Fields& fields, int head_dim,
                      std::int64_t max_position_embeddings,
                      double default_partial_rotary_factor) {
  std::optional<Fields> given = fields.object("rope_scaling");
  if (!given || given->json().empty()) given = fields.object("rope_parameters");
  const Fields& rope = given ? *given : fields;

  RopeConfig config;
  if (given) config.type = rope_type(rope);
  // Of the object, else of the config beside it, else the class default.
  config.theta = rope.number_or(
      "rope_theta", fields.number_or("rope_theta", 10000, 1, 1e12), 1, 1e12);
  config.partial_rotary_factor = rope.number_or(
      "partial_rotary_factor",
      fields.number_or("partial_rotary_factor", default_partial_rotary_factor, 0, 1), 0,
      1);
  config.rotary_dim = static_cast<int>(head_dim * config.partial_rotary_factor);
  if (config.rotary_dim < 2 || config.rotary_dim % 2 != 0)
    fields.fail("partial_rotary_factor",
                fmt::format("an even number of rotated dimensions of {}", head_dim),
                std::to_string(config.rotary_dim));

  if (config.type != RopeType::kDefault)
    config.factor = rope.number("factor", 1e-6, kMaxFactor);
  if (config.type == RopeType::kLlama3 || config.type == RopeType::kYarn)
    config.original_max_position_embeddings = rope.integer_or(
        "original_max_position_embeddings", max_position_embeddings, 1, kMaxPositions);
  if (config.type == RopeType::kLlama3) {
    config.low_freq_factor = rope.number("low_freq_factor", 1e-6, kMaxFactor);
    config.high_freq_factor = rope.number("high_freq_factor", 1e-6, kMaxFactor);
    if (config.high_freq_factor <= config.low_freq_factor)
      rope.fail("high_freq_factor",
                fmt::format("more than low_freq_factor, {}", config.low_freq_factor));
  }
  if (config.type == RopeType::kYarn) read_yarn(rope, config);

  if (given) {
    config.mrope_section = rope.integers("mrope_section", 0, head_dim);
    config.mrope_interleaved = rope.boolean_or("mrope_interleaved", false);
    const std::int64_t sum = std::accumulate(
        config.mrope_section.begin(), config.mrope_section.end(), std::int64_t{0});
    if (!config.mrope_section.empty() && sum != config.rotary_dim / 2)
      rope.fail("mrope_section",
                fmt::format("sections that sum to {}", config.rotary_dim / 2),
                fmt::format("a sum of {}", sum));
  }
  return config;
}

}  // namespace optiq::checkpoint
