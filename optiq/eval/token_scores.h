// What a model's logits say of the tokens that really came.
#pragma once
#include <span>
#include <vector>

#include "mlx/array.h"

namespace optiq::eval {

namespace mx = mlx::core;

struct TokenScore {
  double nll = 0;     // nats: -log p(token)
  double margin = 0;  // nats: log p(token) - log p(the most likely other token)
};

/// -log p(targets[i]) under row i, in nats; shapes and requirements as below.
std::vector<double> token_nll(const mx::array& logits, std::span<const int> targets);

/// The score of targets[i] under row i.
///
/// Shapes    logits [rows, vocab_size] float32, evaluated; as many targets as rows
/// Requires  targets in [0, vocab_size)
std::vector<TokenScore> score_tokens(const mx::array& logits,
                                     std::span<const int> targets);

}  // namespace optiq::eval
