// How much a model is surprised by the tokens that came, and the gradient of that.
#pragma once
#include <cstdint>

namespace optiq::kernels {

/// One call of cross_entropy.
///
/// Shapes    logits [rows, vocab], replaced by the gradient; targets, weights, losses
///           [rows]
struct CrossEntropyArgs {
  float* logits;
  const std::int32_t* targets;  // each in [0, vocab)
  const float* weights;
  float* losses;
  std::int64_t rows;
  int vocab;
  bool gradient = true;  // false: the logits stay
};

/// losses = log sum exp(logits) - logits[target], in nats, not weighted;
/// logits <- weight (softmax(logits) - [target]).
///
/// Cost      two passes over a row that fits the cache, three with a gradient.
void cross_entropy(const CrossEntropyArgs& args);

namespace ref {
/// The definition, rows [begin, end) in double precision.
void cross_entropy_rows(const CrossEntropyArgs& args, std::int64_t begin,
                        std::int64_t end);
}  // namespace ref

}  // namespace optiq::kernels
