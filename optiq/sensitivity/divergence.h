// The divergence of a model from its reference on fixed windows of tokens, with the
// activations before a changed layer computed once.
#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "optiq/models/model.h"

namespace optiq::sensitivity {

namespace mx = mlx::core;

/// Divergences of one configuration, in nats per token: KL(reference || model).
struct Divergence {
  std::vector<double> window_means;  // one a window
  double mean = 0;
  double p99 = 0;                 // over tokens; 0 unless asked for
  double top1_agreement = 0;      // of tokens
  double standard_error() const;  // of the mean, over windows
};

/// Divergences token by token, each with the window that it lies in.
struct TokenDivergences {
  std::vector<double> kl;
  std::vector<std::uint8_t> same_top1;
  std::vector<int> windows;

  /// Adds rows of logits. Shapes  reference, logits [windows_of_rows.size(), vocab]
  void add(const float* reference, const float* logits, int vocab,
           std::span<const int> windows_of_rows);
};

/// Means and percentiles of tokens in windows 0, 1, ..., none of them empty.
Divergence summarize(TokenDivergences tokens, bool with_p99);

/// Sums of squares of each linear module's input: the diagonal of sum x x^T.
struct InputStatistics {
  std::unordered_map<std::string, std::vector<float>> squares;  // by module path, [K]
  std::int64_t tokens = 0;

  /// E[x^2] of a module's input; empty if it was not seen.
  std::vector<float> mean_squares(const std::string& path) const;
};

struct DivergenceOptions {
  int batch_tokens = 2048;                   // rows of one forward call
  std::int64_t reference_bytes = 4LL << 30;  // logits of a reference held at most;
                                             // beyond that they are computed anew
};

/// How much of the text a measurement covers.
struct Extent {
  int n_windows = 0;                // the first ones; 0: all
  bool every_second_token = false;  // spares half of the head's work; neighbours say
                                    // much the same
  bool with_p99 = false;
};

/// Measures a model whose weights are being changed against the model as it was.
///
/// Walks the layers once: at stage i the inputs of layer i are at hand for every
/// window, computed with the weights that the layers before it have had. So a change in
/// layer i costs the layers from i on.
///
/// Threads   one.
class DivergenceMeter {
 public:
  /// Runs the reference: the model as it is now, layer by layer over all windows, so
  /// that weights mapped from a file are read once. `statistics`, if given, is filled.
  DivergenceMeter(models::Model& model, std::vector<std::vector<int>> windows,
                  const DivergenceOptions& options,
                  InputStatistics* statistics = nullptr);

  int n_windows() const { return static_cast<int>(windows_.size()); }
  std::int64_t n_tokens() const;

  /// Back to the beginning, for a walk with other weights.
  void restart();

  /// Takes every window through layers up to, not including, `layer`, with the weights
  /// that the model has now. Only forward; -1 is before the embedding.
  void advance_to(int layer);

  /// Takes the model as it is now, from the current stage on, for the reference of the
  /// measurements that follow, until restart(): layers before the stage stay out of the
  /// comparison. Covers the extent's windows.
  void rebase(const Extent& extent);

  /// The divergence with the weights that the model has now, from the current stage on.
  Divergence measure(const Extent& extent = {});

 private:
  struct Group {  // windows of one forward call
    std::vector<int> lengths;
    std::vector<int> ids;
    int first_window;
  };
  // What a reference answers: its last hidden rows and its head, and its logits where
  // they are held.
  struct Answers {
    std::vector<mx::array> hidden;  // one a group
    std::function<mx::array(const mx::array&)> head;
    std::vector<std::vector<float>> logits;  // one a group, rows of even number first;
                                             // empty: computed anew
  };
  // The windows of a group that an extent covers, and their hidden rows under the model
  // as it is now.
  struct Part {
    std::vector<int> window_of_row;
    mx::array hidden;
  };
  models::Batch batch(const Group& group) const;
  void run_reference(InputStatistics* statistics);
  int covered_windows(const Extent& extent) const;
  int head_rows() const;  // of one call of the head
  bool fits_memory(std::int64_t rows) const;
  Part run(std::size_t group, int n_windows);

  models::Model& model_;
  std::vector<std::vector<int>> windows_;
  DivergenceOptions options_;
  std::vector<Group> groups_;
  int stage_ = -1;
  std::vector<mx::array> inputs_;  // of layer stage_, one a group
  Answers reference_;
  std::optional<Answers> rebased_;  // after rebase()
};

}  // namespace optiq::sensitivity
