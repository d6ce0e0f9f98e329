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
    {"longrope", RopeType::kLongRope},
    {"su", RopeType::kLongRope},  // its older name
    {"proportional", RopeType::kProportional},
};

constexpr double kMaxFactor = 1e6;
constexpr std::int64_t kMaxPositions = std::int64_t{1} << 30;

RopeType rope_type(const Fields& rope, RopeType otherwise) {
  const char* key = rope.has("rope_type") ? "rope_type" : "type";
  if (!rope.has(key)) return otherwise;
  const std::string name = rope.text(key);
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

void read_longrope(const Fields& fields, const Fields& rope, const RopeSource& source,
                   RopeConfig& config) {
  const char* key = "original_max_position_embeddings";
  config.original_max_position_embeddings =
      (fields.has(key) ? fields : rope)
          .integer_or(key, source.max_position_embeddings, 1, kMaxPositions);
  const auto half = static_cast<std::size_t>(config.rotary_dim / 2);
  const auto factors = [&](const char* name) {
    auto values = rope.numbers(name, 1e-6, kMaxFactor);
    if (values.size() != half)
      rope.fail(name, fmt::format("a list of {} numbers", half),
                fmt::format("{} of them", values.size()));
    return values;
  };
  config.short_factor = factors("short_factor");
  config.long_factor = factors("long_factor");
  const auto original = static_cast<double>(config.original_max_position_embeddings);
  config.factor = rope.number_or(
      "factor", static_cast<double>(source.max_position_embeddings) / original, 1e-6,
      kMaxFactor);
  const double inferred =
      config.factor <= 1 || original <= 1
          ? 1
          : std::sqrt(1 + std::log(config.factor) / std::log(original));
  config.attention_factor = rope.number_or("attention_factor", inferred, 0, kMaxFactor);
}

// The object that describes the rotation, if there is one.
std::optional<Fields> described(const Fields& fields, const RopeSource& source) {
  std::optional<Fields> given;
  if (source.takes_rope_scaling) given = fields.object("rope_scaling");
  if (given && !given->json().empty()) return given;
  given = fields.object("rope_parameters");
  if (given && source.layer_type) {
    const std::optional<Fields> own = given->object(source.layer_type);
    // One object for all layers is what older files of such models have.
    if (own || given->object("full_attention") || given->object("sliding_attention"))
      return own;
    if (!source.takes_rope_scaling) return std::nullopt;
  }
  return given;
}

}  // namespace

RopeConfig parse_rope(const Fields& fields, const RopeSource& source) {
  const int head_dim = source.head_dim;
  const std::optional<Fields> given = described(fields, source);
  const Fields& rope = given ? *given : fields;

  RopeConfig config;
  config.type = given ? rope_type(rope, source.type) : source.type;
  // Of the object, else of the config beside it, else the class default.
  config.theta = fields.number_or(source.theta_key, source.theta, 1, 1e12);
  if (given) config.theta = rope.number_or("rope_theta", config.theta, 1, 1e12);
  config.partial_rotary_factor = rope.number_or(
      "partial_rotary_factor",
      fields.number_or("partial_rotary_factor", source.partial_rotary_factor, 0, 1), 0,
      1);
  const bool whole = config.type == RopeType::kProportional;
  config.rotary_dim =
      whole ? head_dim : static_cast<int>(head_dim * config.partial_rotary_factor);
  if (config.rotary_dim < 2 || config.rotary_dim % 2 != 0)
    fields.fail("partial_rotary_factor",
                fmt::format("an even number of rotated dimensions of {}", head_dim),
                std::to_string(config.rotary_dim));

  if (config.type == RopeType::kLongRope)
    read_longrope(fields, rope, source, config);
  else if (config.type == RopeType::kProportional)
    config.factor = rope.number_or("factor", 1, 1e-6, kMaxFactor);
  else if (config.type != RopeType::kDefault)
    config.factor = rope.number("factor", 1e-6, kMaxFactor);
  if (config.type == RopeType::kLlama3 || config.type == RopeType::kYarn)
    config.original_max_position_embeddings =
        rope.integer_or("original_max_position_embeddings",
                        source.max_position_embeddings, 1, kMaxPositions);
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
