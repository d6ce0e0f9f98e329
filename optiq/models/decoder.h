// The pre-norm decoder that all our architectures share: what differs is the mixers,
// the MLPs and what Gemma adds.
#pragma once
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "optiq/models/layers/attention.h"
#include "optiq/models/layers/gated_delta_net.h"
#include "optiq/models/layers/mlp.h"
#include "optiq/models/layers/parallel_experts.h"
#include "optiq/models/layers/per_layer_input.h"
#include "optiq/models/layers/sparse_mlp.h"
#include "optiq/models/model.h"
#include "optiq/models/weights.h"

namespace optiq::models {

/// x + mixer(norm x), then x + mlp(norm x). Gemma norms what is added, too, and may
/// scale the sum.
struct DecoderLayer {
  mx::array input_norm;
  std::variant<SelfAttention, GatedDeltaNet> mixer;
  std::optional<mx::array> mixed_norm{};  // of what the mixer gives
  mx::array mlp_norm;
  std::variant<Mlp, SparseMlp> mlp;
  std::optional<ParallelExperts> experts{};
  std::optional<mx::array> mlp_out_norm{};
  std::optional<PerLayerInput> per_layer{};
  float scale = 1;  // of the layer's result
};

struct DecoderParts {
  LinearModule embedding;
  std::vector<DecoderLayer> layers;
  mx::array norm;
  std::optional<LinearModule> head;  // none: tied to the embedding
  float embedding_scale = 1;
  float softcap = 0;  // of the logits; 0: none
  std::optional<PerLayerEmbedding> per_layer{};
};

class Decoder final : public Model {
 public:
  Decoder(checkpoint::ModelConfig config, DecoderParts parts);

  const checkpoint::ModelConfig& config() const override { return config_; }
  mx::array embed(const mx::array& ids) override;
  mx::array layer(int i, const mx::array& x, const Batch& batch) override;
  mx::array final_norm(const mx::array& x) override;
  mx::array head(const mx::array& x, kernels::Activation activation) override;
  mx::array hidden(const mx::array& ids, const Batch& batch) override;
  const LinearModule& output() const override {
    return parts_.head ? *parts_.head : parts_.embedding;
  }
  std::function<mx::array(const mx::array&)> reference_head() const override;
  std::vector<LinearModule*> linears() override;
  const std::vector<cache::LayerShape>& layer_shapes() const override {
    return shapes_;
  }
  std::int64_t weight_bytes() const override;

 private:
  // What flows from layer to layer. Between calls of layer() it is one array, its parts
  // side by side: x, inputs, then keys and values by layer.
  struct Stream {
    mx::array x;                      // [T, hidden_size]
    std::optional<mx::array> inputs;  // [T, n_layers P]
    // Of the layers that others share with, without a cache, once they have run.
    std::map<int, KeysValues> shared;
  };

  Stream embedded(const mx::array& ids);
  void run(int i, Stream& stream, const Batch& batch);
  mx::array packed(const Stream& stream) const;
  Stream unpacked(const mx::array& wide, int next_layer) const;
  mx::array stream_columns(const mx::array& wide) const;

  checkpoint::ModelConfig config_;
  DecoderParts parts_;
  std::vector<cache::LayerShape> shapes_;
  std::vector<int> shared_layers_;  // whose keys and values others use, ascending
};

/// An attention around these two matrices, with heads, rotation, scale and window as
/// the config has them for layer `i`; keys, values and norms are to be set.
SelfAttention attention_frame(const checkpoint::ModelConfig& config, int i,
                              LinearModule q, LinearModule o);

/// The pieces of layer `i`, loaded from the names that all our architectures use.
SelfAttention load_attention(const Weights& weights, int i);
Mlp load_mlp(const Weights& weights, int i);
std::variant<Mlp, SparseMlp> load_dense_or_sparse_mlp(const Weights& weights, int i);

/// Embedding, final norm and head around the layers.
DecoderParts load_ends(const Weights& weights, std::vector<DecoderLayer> layers);

/// A decoder whose mixers `mixer(i)` and MLPs `mlp(i)` load.
template <class LoadMixer, class LoadMlp>
std::unique_ptr<Model> build_decoder(const Weights& weights, LoadMixer&& mixer,
                                     LoadMlp&& mlp) {
  const auto& config = weights.config();
  const int hidden = config.hidden_size;
  std::vector<DecoderLayer> layers;
  for (int i = 0; i < config.num_hidden_layers; ++i) {
    const std::string name = "layers." + std::to_string(i);
    layers.push_back(
        {.input_norm = weights.norm(name + ".input_layernorm", hidden),
         .mixer = mixer(i),
         .mlp_norm = weights.norm(name + ".post_attention_layernorm", hidden),
         .mlp = mlp(i)});
  }
  return std::make_unique<Decoder>(config, load_ends(weights, std::move(layers)));
}

/// The same with the MLPs that the config describes.
template <class LoadMixer>
std::unique_ptr<Model> build_decoder(const Weights& weights, LoadMixer&& mixer) {
  return build_decoder(weights, std::forward<LoadMixer>(mixer),
                       [&](int i) { return load_dense_or_sparse_mlp(weights, i); });
}

}  // namespace optiq::models
