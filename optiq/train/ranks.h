// How much rank each linear layer gets.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace optiq::train {

/// What decides.
///   kConstant  the base rank everywhere
///   kByBits    base x bits / 4: an 8-bit layer has twice the rank of a 4-bit one
///   kByKl      base x divergence / its median, between half and twice the base
///   kByGrad    in proportion to the gradient's norm, within the constant rank's budget
enum class RankScaling { kConstant, kByBits, kByKl, kByGrad };

const char* name(RankScaling scaling);

/// One linear layer that is trained.
struct RankedLayer {
  std::string name;
  int inputs = 0, outputs = 0;
  int bits = 16;     // of its weights
  double kl = 0;     // its stored divergence at its bits, nats; 0: none is stored
  double score = 0;  // norm of its gradient, for kByGrad

  std::int64_t parameters(int rank) const {
    return std::int64_t{rank} * (inputs + outputs);
  }
};

struct RankOptions {
  RankScaling scaling = RankScaling::kByBits;
  int base = 8;
  bool same_budget = false;  // as many parameters as the base rank everywhere; kByGrad
                             // always
  bool permuted = false;     // the ranks of `scaling` dealt to other layers: a control
  std::uint64_t seed = 0;    // of the permutation
};

/// A rank for each layer, at least 2 (or the base, where that is less) and at most four
/// times the base.
///
/// Throws    std::invalid_argument if what `scaling` reads is not there
/// Source    by_bits and by_kl: mlx-optiq; by_grad: GoRA (arXiv 2502.12171), section 3,
///           with the norm alone
std::vector<int> choose_ranks(const std::vector<RankedLayer>& layers,
                              const RankOptions& options);

/// Ranks in proportion to `weights`, with as many parameters as `budget` allows and
/// within [least, most].
std::vector<int> ranks_within(const std::vector<RankedLayer>& layers,
                              const std::vector<double>& weights, std::int64_t budget,
                              int least, int most);

}  // namespace optiq::train
