// A language model as the rest of optiq sees it: embed, layer by layer, head.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "mlx/array.h"
#include "optiq/cache/sequence_state.h"
#include "optiq/checkpoint/config.h"
#include "optiq/kernels/linear/linear_primitive.h"
#include "optiq/kernels/segment.h"
#include "optiq/models/adapter.h"
#include "optiq/models/mounts.h"

namespace optiq::models {

namespace mx = mlx::core;

/// What one forward call computes: the rows of one or more sequences, end to end.
struct Batch {
  std::vector<kernels::Segment> segments;
  std::vector<cache::SequenceState*> states;  // one a segment; empty: nothing is cached
  mx::array positions;                        // [T] int32
  kernels::Activation activation = kernels::Activation::kInt8;
  // By layer, null where there is no attention; empty: nothing is cached.
  std::vector<std::shared_ptr<kernels::PagedCall>> paged{};
  // One a segment, null where the base answers alone; empty: nobody has one.
  std::vector<AdapterPtr> adapters{};
  // [T] int32, by row: does its sequence turn by the frequencies for long ones? None:
  // no row's does, or nothing is cached and the segments' lengths say it.
  std::optional<mx::array> long_rows{};
};

/// A batch of whole sequences of these lengths, without a cache.
Batch uncached_batch(const std::vector<int>& lengths, kernels::Activation activation);

/// A batch that continues `states` by `tokens[i]` rows each, with room made for them.
/// The states advance when finish_batch is called.
///
/// Throws    ResourceError if there is no room
Batch cached_batch(const std::vector<cache::SequenceState*>& states,
                   const std::vector<int>& tokens, kernels::Activation activation);

/// True if continue_batch could keep what taped kernels have read where.
bool can_continue(const Batch& batch);

/// Counts the rows of the batch in its states.
void finish_batch(const Batch& batch);

/// Makes a finished batch ready for as many rows again: room in the states, and, where
/// they lie, its positions and what its layers meet. Kernels that were taped read
/// these.
///
/// Throws    ResourceError; the batch is still finished
void continue_batch(Batch& batch);

/// One matrix that may be quantized, and where it sits in the walk from embedding to
/// head. Its weight may be replaced between calls. Of a mixture's experts all matrices
/// of one kind are one module, [E N, K] one below the other.
struct LinearModule {
  static constexpr int kEmbedding = -1;
  std::string path;  // in the checkpoint: model.language_model.layers.0.mlp.up_proj
  std::string name;  // without the checkpoint's prefix: layers.0.mlp.up_proj
  int layer;         // kEmbedding, a layer, or n_layers for the head
  kernels::LinearWeight weight;
  int n_experts = 1;
};

/// Called with each linear module and its input [T, K] while a forward call is built.
using InputObserver = std::function<void(const LinearModule&, const mx::array&)>;

/// Called with each linear module of a layer and its product; what it returns takes the
/// product's place. Experts are passed over.
using OutputHook = std::function<mx::array(const LinearModule&, const mx::array&)>;

/// Called with what the second matrix of one expert is given, [T_e, K], where tokens
/// visit it.
using ExpertObserver =
    std::function<void(const LinearModule& experts, int expert, const mx::array&)>;

/// Called with the queries of a layer, [T, n_heads, head_dim] after RoPE, and the layer
/// whose keys they meet, while a forward call is built.
using QueryObserver = std::function<void(int layer, const mx::array&)>;

class Model {
 public:
  virtual ~Model() = default;

  virtual const checkpoint::ModelConfig& config() const = 0;

  /// What goes into the first layer: the residual stream in the first hidden_size
  /// columns, and behind it what the architecture carries along (Gemma 4's inputs of
  /// each layer and shared keys and values). Rows belong to tokens, and that is all
  /// that others may know of them.
  ///
  /// Shapes    ids [T] int32 -> [T, at least hidden_size] float32
  virtual mx::array embed(const mx::array& ids) = 0;

  /// One block. Shapes  x [T, ...] as embed and the layer before give it -> the same
  virtual mx::array layer(int i, const mx::array& x, const Batch& batch) = 0;

  /// The final norm. Shapes  x [T, ...] of the last layer -> [T, hidden_size]
  virtual mx::array final_norm(const mx::array& x) = 0;

  /// The final norm and the output projection.
  ///
  /// Shapes    x [T, ...] of the last layer -> logits [T, vocab_size] float32
  virtual mx::array head(const mx::array& x, kernels::Activation activation) = 0;

  /// The matrix of the output projection: the head's, or the embedding where it is
  /// tied.
  virtual const LinearModule& output() const = 0;

  /// The head with the weights that it has now, whatever they become later.
  virtual std::function<mx::array(const mx::array&)> reference_head() const = 0;

  /// Every matrix that may be quantized, in the order data walks. A tied head is not
  /// listed: it is the embedding.
  virtual std::vector<LinearModule*> linears() = 0;

  virtual const std::vector<cache::LayerShape>& layer_shapes() const = 0;

  /// Bytes of all weights in memory.
  virtual std::int64_t weight_bytes() const = 0;

  int n_layers() const { return config().num_hidden_layers; }

  /// Embedding and all layers: what the head takes. Shapes  ids [T] -> [T, ...]
  virtual mx::array hidden(const mx::array& ids, const Batch& batch);

  void observe_inputs(InputObserver observer) { observer_ = std::move(observer); }
  void observe_experts(ExpertObserver observer) {
    expert_observer_ = std::move(observer);
  }
  void observe_queries(QueryObserver observer) {
    query_observer_ = std::move(observer);
  }
  void change_outputs(OutputHook hook) { output_hook_ = std::move(hook); }

  /// The adapters that calls may name.
  Mounts& mounts() { return mounts_; }
  const Mounts& mounts() const { return mounts_; }

 protected:
  InputObserver observer_;
  ExpertObserver expert_observer_;
  QueryObserver query_observer_;
  OutputHook output_hook_;

 private:
  Mounts mounts_;
};

}  // namespace optiq::models
