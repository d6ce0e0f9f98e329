#include "optiq/kernels/sampling/sampling.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "optiq/kernels/dispatch.h"
#include "optiq/kernels/sampling/logit_row.h"

namespace optiq::kernels {

OPTIQ_DECLARE_SIMD(RowMax largest_logit(const float* logits, int n))
OPTIQ_DECLARE_SIMD(double sum_exp(const float* logits, int n, float shift, float scale,
                                  double* sums))
OPTIQ_DECLARE_SIMD(int ids_above(const float* logits, int n, float threshold, int* ids))

RowMax largest_logit(const float* logits, int n) {
  return OPTIQ_CHOOSE(largest_logit)(logits, n);
}

double sum_exp(const float* logits, int n, float shift, float scale, double* sums) {
  return OPTIQ_CHOOSE(sum_exp)(logits, n, shift, scale, sums);
}

int ids_above(const float* logits, int n, float threshold, int* ids) {
  return OPTIQ_CHOOSE(ids_above)(logits, n, threshold, ids);
}

namespace {

constexpr float kGreedy = 1e-5f;

int size_of_row(std::span<const float> logits) {
  if (logits.size() > static_cast<std::size_t>(std::numeric_limits<int>::max()))
    throw std::invalid_argument("sampling: a row of more than 2^31 logits");
  return static_cast<int>(logits.size());
}

// The largest logit of a row that a token can be chosen from.
RowMax checked_largest(std::span<const float> logits) {
  const RowMax best = largest_logit(logits.data(), size_of_row(logits));
  if (best.has_nan) throw LogitsError("sampling: expected logits, found NaN");
  if (!std::isfinite(best.value))
    throw LogitsError(fmt::format("sampling: the largest of {} logits is {}",
                                  logits.size(), best.value));
  return best;
}

std::size_t n_blocks(int n) {
  return static_cast<std::size_t>((n + kLogitBlock - 1) / kLogitBlock);
}

double log_sum_exp(std::span<const float> logits, float largest) {
  const int n = size_of_row(logits);
  std::vector<double> sums(n_blocks(n));
  return largest + std::log(sum_exp(logits.data(), n, largest, 1, sums.data()));
}

void check_range(const char* name, double value, double low, double high) {
  if (!(value >= low && value <= high))
    throw std::invalid_argument(
        fmt::format("{}: expected {} to {}, found {}", name, low, high, value));
}

// splitmix64 as a function of a counter (Steele, Lea and Flood 2014, figure 17).
std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

using Candidate = internal::Candidate;

bool likelier(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

double sum_of(std::span<const Candidate> all) {
  double sum = 0;
  for (const Candidate& c : all) sum += c.weight;
  return sum;
}

struct Head {
  std::size_t count;
  double weight;
};

// Of unequal candidates: brings those to the front that are likelier than the ones
// among which the running sum reaches `goal`, and these, of about the same logit,
// behind them. Gives the range of the latter, and adds to `weight` what lies before it.
std::pair<std::size_t, std::size_t> narrow(std::span<Candidate> part, double smallest,
                                           double largest, double goal,
                                           double& weight) {
  constexpr int kBins = 1024;
  const double scale = (kBins - 1) / (largest - smallest);
  const auto bin_of = [&](const Candidate& c) {
    return static_cast<int>((largest - c.logit) * scale);
  };
  std::array<double, kBins> sums{};
  for (const Candidate& c : part) sums[static_cast<std::size_t>(bin_of(c))] += c.weight;
  int bin = 0;
  while (bin + 1 < kBins && weight + sums[static_cast<std::size_t>(bin)] < goal)
    weight += sums[static_cast<std::size_t>(bin++)];
  const auto first =
      std::ranges::partition(part, [&](const Candidate& c) { return bin_of(c) < bin; });
  const auto rest = std::ranges::partition(
      first, [&](const Candidate& c) { return bin_of(c) == bin; });
  return {static_cast<std::size_t>(first.begin() - part.begin()),
          static_cast<std::size_t>(rest.begin() - part.begin())};
}

// Moves the fewest likeliest of `all` that weigh `goal` together, but at least one, to
// its front, the last of them last. Only the few about the last one are sorted: O(n),
// where a flat distribution leaves a whole vocabulary.
Head likeliest(std::span<Candidate> all, double goal) {
  constexpr std::size_t kFew = 64;
  std::size_t begin = 0, end = all.size();
  double weight = 0;
  while (end - begin > kFew) {
    const auto part = all.subspan(begin, end - begin);
    const auto [low, high] =
        std::ranges::minmax(part, {}, [](const Candidate& c) { return c.logit; });
    if (low.logit == high.logit) break;
    const auto [from, to] = narrow(part, low.logit, high.logit, goal, weight);
    end = begin + to;
    begin += from;
  }
  std::ranges::sort(all.subspan(begin, end - begin), likelier);
  while (begin < end && (begin == 0 || weight < goal)) weight += all[begin++].weight;
  return {begin, weight};
}

}  // namespace

Sampler::Sampler(SamplingOptions options, std::uint64_t seed)
    : options_(std::move(options)), key_(mix(seed + 0x9e3779b97f4a7c15)) {
  constexpr double kAny = std::numeric_limits<float>::max();
  check_range("temperature", options_.temperature, 0, kAny);
  check_range("top_k", options_.top_k, 0, std::numeric_limits<int>::max());
  check_range("top_p", options_.top_p, 0, 1);
  check_range("min_p", options_.min_p, 0, 1);
  check_range("presence_penalty", options_.presence_penalty, -kAny, kAny);
  check_range("frequency_penalty", options_.frequency_penalty, -kAny, kAny);
  check_range("repetition_penalty", options_.repetition_penalty,
              std::numeric_limits<float>::min(), kAny);
}

// The n-th number drawn, from 1 on.
double Sampler::number(std::uint64_t n) const {
  return static_cast<double>(mix(key_ + n * 0x9e3779b97f4a7c15) >> 11) * 0x1p-53;
}

bool Sampler::draws() const {
  return options_.temperature >= kGreedy && options_.top_k != 1;
}

std::span<const float> Sampler::adjust(std::span<const float> logits,
                                       std::span<const int> context) {
  const bool penalized = !context.empty() && (options_.repetition_penalty != 1 ||
                                              options_.presence_penalty != 0 ||
                                              options_.frequency_penalty != 0);
  if (!penalized && options_.logit_bias.empty()) return logits;
  adjusted_.assign(logits.begin(), logits.end());
  for (const LogitBias& bias : options_.logit_bias) {
    if (bias.id < 0 || static_cast<std::size_t>(bias.id) >= adjusted_.size())
      throw std::invalid_argument(
          fmt::format("logit_bias: token {} is not among the {} of the vocabulary",
                      bias.id, adjusted_.size()));
    adjusted_[static_cast<std::size_t>(bias.id)] += bias.bias;
  }
  if (!penalized) return adjusted_;
  ids_.assign(context.begin(), context.end());
  std::ranges::sort(ids_);
  for (std::size_t i = 0, next; i < ids_.size(); i = next) {
    for (next = i; next < ids_.size() && ids_[next] == ids_[i];) ++next;
    if (ids_[i] < 0 || static_cast<std::size_t>(ids_[i]) >= adjusted_.size()) continue;
    float& x = adjusted_[static_cast<std::size_t>(ids_[i])];
    x = x > 0 ? x / options_.repetition_penalty : x * options_.repetition_penalty;
    x -= options_.presence_penalty +
         options_.frequency_penalty * static_cast<float>(next - i);
  }
  return adjusted_;
}

std::optional<RowDraw> Sampler::next_draw(int ahead) const {
  if (!options_.logit_bias.empty() || options_.repetition_penalty != 1 ||
      options_.presence_penalty != 0 || options_.frequency_penalty != 0)
    return std::nullopt;
  if (!draws()) return RowDraw{};
  return RowDraw{number(draws_ + 1 + static_cast<std::uint64_t>(ahead)),
                 1 / options_.temperature, options_.top_p, options_.min_p,
                 options_.top_k};
}

void Sampler::skip() {
  if (draws()) ++draws_;
}

int Sampler::sample(std::span<const float> logits, std::span<const int> context) {
  logits = adjust(logits, context);
  const RowMax best = checked_largest(logits);
  if (!draws()) return best.id;
  const bool filtered =
      options_.top_p < 1 || options_.min_p > 0 ||
      (options_.top_k > 0 && static_cast<std::size_t>(options_.top_k) < logits.size());
  return filtered ? draw_filtered(logits, best.value) : draw(logits, best.value);
}

// From all tokens: the block that the draw falls in, then the token in it.
int Sampler::draw(std::span<const float> logits, float largest) {
  const int n = size_of_row(logits);
  const float scale = 1 / options_.temperature;
  sums_.resize(n_blocks(n));
  double rest =
      number(++draws_) * sum_exp(logits.data(), n, largest, scale, sums_.data());
  std::size_t block = 0;
  while (block + 1 < sums_.size() && rest >= sums_[block]) rest -= sums_[block++];
  // Where rounding leaves a little behind the block, a later token takes it, or the
  // last one with any weight.
  int last = -1;
  const int begin = static_cast<int>(block) * kLogitBlock;
  for (int i = begin; i < n; ++i) {
    const float x = logits[static_cast<std::size_t>(i)];
    const double p = std::exp((static_cast<double>(x) - largest) * scale);
    if (p <= 0) continue;
    last = i;
    if (rest < p) return i;
    rest -= p;
  }
  return last >= 0 ? last : largest_logit(logits.data(), n).id;
}

// From the tokens that pass the filters. Only those within `reach` of the largest are
// looked at, further ones only if the filters are not satisfied by these.
int Sampler::draw_filtered(std::span<const float> logits, float largest) {
  const int n = size_of_row(logits);
  const float scale = 1 / options_.temperature;
  const auto top_k =
      static_cast<std::size_t>(options_.top_k > 0 ? std::min(options_.top_k, n) : n);
  const bool whole_mass = top_k == logits.size() && options_.top_p < 1;
  double mass = 0;
  if (whole_mass) {
    sums_.resize(n_blocks(n));
    mass = sum_exp(logits.data(), n, largest, scale, sums_.data());
  }
  constexpr double kAll = std::numeric_limits<double>::infinity();
  // Past this min_p removes a token, and no other filter asks for it.
  const double furthest = options_.min_p > 0 && (whole_mass || options_.top_p >= 1)
                              ? -std::log(double{options_.min_p})
                              : kAll;
  for (double reach : {6.0, 12.0, 24.0, kAll}) {
    const bool all_reached = reach >= furthest;
    reach = std::min(reach, furthest);
    // One more part in a million, so that rounding of the threshold removes nothing.
    const auto threshold = static_cast<float>(
        largest - reach * options_.temperature * (1 + 1e-6) - 1e-6 * std::abs(largest));
    ids_.resize(logits.size());
    ids_.resize(
        static_cast<std::size_t>(ids_above(logits.data(), n, threshold, ids_.data())));
    candidates_.clear();
    for (int id : ids_) {
      const float x = logits[static_cast<std::size_t>(id)];
      candidates_.push_back(
          {x, id, std::exp((static_cast<double>(x) - largest) * scale)});
    }
    if (all_reached || candidates_.size() >= top_k ||
        (whole_mass && sum_of(candidates_) >= options_.top_p * mass))
      break;
  }
  if (candidates_.size() > top_k) {
    std::ranges::nth_element(candidates_,
                             candidates_.begin() + static_cast<std::ptrdiff_t>(top_k),
                             likelier);
    candidates_.resize(top_k);
  }
  if (!whole_mass) mass = sum_of(candidates_);
  std::erase_if(candidates_, [&](const Candidate& c) {
    return c.weight < options_.min_p || c.weight == 0;
  });
  const std::span<Candidate> all = candidates_;
  const Head kept = options_.top_p < 1 ? likeliest(all, options_.top_p * mass)
                                       : Head{all.size(), sum_of(all)};
  const double drawn = number(++draws_) * kept.weight;
  const Head head =
      likeliest(all.first(kept.count), std::nextafter(drawn, double{kAll}));
  return all[head.count - 1].id;
}

float log_prob(std::span<const float> logits, int id) {
  if (id < 0 || static_cast<std::size_t>(id) >= logits.size())
    throw std::invalid_argument(fmt::format(
        "log_prob: token {} is not among the {} of the vocabulary", id, logits.size()));
  return static_cast<float>(logits[static_cast<std::size_t>(id)] -
                            log_sum_exp(logits, checked_largest(logits).value));
}

std::vector<TokenLogProb> top_log_probs(std::span<const float> logits, int n) {
  const double total = log_sum_exp(logits, checked_largest(logits).value);
  std::vector<int> ids(logits.size());
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int>(i);
  const auto count = std::min(ids.size(), static_cast<std::size_t>(std::max(n, 0)));
  std::ranges::partial_sort(ids, ids.begin() + static_cast<std::ptrdiff_t>(count),
                            [&](int a, int b) {
                              const float x = logits[static_cast<std::size_t>(a)];
                              const float y = logits[static_cast<std::size_t>(b)];
                              return x > y || (x == y && a < b);
                            });
  std::vector<TokenLogProb> top;
  for (std::size_t i = 0; i < count; ++i)
    top.push_back(
        {ids[i], static_cast<float>(logits[static_cast<std::size_t>(ids[i])] - total)});
  return top;
}

}  // namespace optiq::kernels
