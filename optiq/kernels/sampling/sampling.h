// The choice of the next token from the logits of one row.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <stdexcept>
#include <vector>

#include "optiq/kernels/sampling/row_draw.h"

namespace optiq::kernels {

/// Logits that nothing can be chosen from: NaN among them, +infinity, or nothing above
/// -infinity. The request they belong to fails; others go on.
class LogitsError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct LogitBias {
  int id;
  float bias;  // added to the logit; -infinity forbids the token
};

/// How a token is chosen, in the order in which the fields act: logit_bias, the
/// penalties, temperature, top_k, top_p, min_p, as in vLLM.
///
/// mlx-lm filters first (top_p, min_p, top_k, on log-probabilities at temperature 1)
/// and then applies the temperature, so that at temperatures other than 1 its top_p
/// and min_p keep other tokens.
struct SamplingOptions {
  std::vector<LogitBias> logit_bias;
  float repetition_penalty =
      1;                       // of each token in the context: x / r if x > 0, else x r
  float presence_penalty = 0;  // subtracted once for a token in the context
  float frequency_penalty = 0;  // subtracted for each time it is there
  float temperature = 0;        // below 1e-5: greedy, what follows does not act
  int top_k = 0;                // the k likeliest; 0: all
  float top_p = 1;  // the fewest likeliest tokens that together hold this probability
  float min_p = 0;  // tokens at least this likely, relative to the likeliest
};

struct TokenLogProb {
  int id;
  float log_prob;
};

namespace internal {
struct Candidate {
  float logit;
  int id;
  double weight;  // relative to the likeliest token
};
}  // namespace internal

/// Chooses tokens for one sequence.
///
/// Threads   used by one thread at a time.
class Sampler {
 public:
  /// Throws  std::invalid_argument if an option is out of its range
  explicit Sampler(SamplingOptions options, std::uint64_t seed = 0);

  /// The next token. Greedy takes the largest logit, of equal ones the lowest id. The
  /// n-th call with a seed draws the same number on every platform.
  ///
  /// Requires  `context`: the tokens that penalties count; ids outside the vocabulary
  ///           are passed over
  /// Throws    LogitsError; std::invalid_argument if a logit_bias names no token
  /// Cost      greedy: one pass; else two or three, and time linear in the tokens that
  ///           can pass the filters
  int sample(std::span<const float> logits, std::span<const int> context = {});

  /// What the call after `ahead` more would do, for whoever makes it in its place;
  /// nothing if it depends on more than the row. skip() is then in place of the call.
  std::optional<RowDraw> next_draw(int ahead = 0) const;
  void skip();

 private:
  std::span<const float> adjust(std::span<const float> logits,
                                std::span<const int> context);
  int draw(std::span<const float> logits, float largest);
  int draw_filtered(std::span<const float> logits, float largest);
  bool draws() const;
  double number(std::uint64_t n) const;

  SamplingOptions options_;
  std::uint64_t key_;
  std::uint64_t draws_ = 0;
  std::vector<float> adjusted_;
  std::vector<double> sums_;
  std::vector<int> ids_;
  std::vector<internal::Candidate> candidates_;
};

/// log softmax(logits)[id], accumulated in double.
///
/// Throws    LogitsError, std::invalid_argument if id is no token
float log_prob(std::span<const float> logits, int id);

/// The n likeliest tokens, likeliest first, equal ones by id.
///
/// Throws    LogitsError
std::vector<TokenLogProb> top_log_probs(std::span<const float> logits, int n);

}  // namespace optiq::kernels
