// Windows of text on their way through a model, layer by layer, and back: what each
// matrix is given, and what its products owe.
#pragma once
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "mlx/array.h"
#include "optiq/models/model.h"

namespace optiq::sensitivity {

/// Rows of logits at a time: a vocabulary of them is large.
inline constexpr int kHeadRows = 128;

/// One window.
struct Trip {
  mlx::core::array ids;  // [T]
  models::Batch batch;
  std::vector<mlx::core::array> inputs;  // of each layer, then of the head, [T, hidden]
  mlx::core::array back{0.0f};           // gradient by the input of what came last
};

/// Inputs x [T, K] and gradients g [T, N] of one matrix's products, a window each.
struct Seen {
  std::vector<mlx::core::array> x, g;
};
using SeenByPath = std::map<std::string, Seen>;

/// Forward through all layers once, then back through the head and each layer, the last
/// first, of the log likelihood of tokens that the model draws itself. Exact
/// activations; weights mapped from a file are read once each way.
///
/// Memory    each layer's inputs; of one layer, what its matrices are given and the
///           gradients by their products
class BackwardWalk {
 public:
  /// Of the windows the first that fit into `input_bytes` are used, at least one.
  BackwardWalk(models::Model& model, const std::vector<std::vector<int>>& windows,
               std::int64_t input_bytes);
  ~BackwardWalk();
  BackwardWalk(const BackwardWalk&) = delete;
  BackwardWalk& operator=(const BackwardWalk&) = delete;

  std::int64_t tokens() const { return tokens_; }
  const std::vector<Trip>& trips() const { return trips_; }

  /// How often each token is read, or drawn from what the model says. [vocab_size]
  std::span<const std::int64_t> counts() const { return counts_; }

  /// From tokens that are drawn back to the last layer's results.
  void back_through_head(std::uint64_t seed);

  /// Back through layer i; its modules by path.
  SeenByPath back_through(int i);

 private:
  void back_through(int i, Trip& trip, SeenByPath& seen);
  void count(const mlx::core::array& ids);

  models::Model& model_;
  std::vector<Trip> trips_;
  std::vector<std::int64_t> counts_;
  std::int64_t tokens_ = 0;
};

}  // namespace optiq::sensitivity
