// The pre-norm decoder that all our architectures share: what differs is the mixers.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "optiq/models/layers/attention.h"
#include "optiq/models/layers/gated_delta_net.h"
#include "optiq/models/layers/mlp.h"
#include "optiq/models/model.h"
#include "optiq/models/weights.h"

namespace optiq::models {

/// x + mixer(norm x), then x + mlp(norm x).
struct DecoderLayer {
  mx::array input_norm;
  std::variant<SelfAttention, GatedDeltaNet> mixer;
  mx::array post_norm;
  Mlp mlp;
};

class Decoder final : public Model {
 public:
  Decoder(checkpoint::ModelConfig config, LinearModule embedding,
          std::vector<DecoderLayer> layers, mx::array norm,
          std::optional<LinearModule> head);

  const checkpoint::ModelConfig& config() const override { return config_; }
  mx::array embed(const mx::array& ids) override;
  mx::array layer(int i, const mx::array& x, const Batch& batch) override;
  mx::array final_norm(const mx::array& x) override;
  mx::array head(const mx::array& x, kernels::Activation activation) override;
  const LinearModule& output() const override { return head_ ? *head_ : embedding_; }
  std::function<mx::array(const mx::array&)> reference_head() const override;
  std::vector<LinearModule*> linears() override;
  const std::vector<cache::LayerShape>& layer_shapes() const override {
    return shapes_;
  }
  std::int64_t weight_bytes() const override;

 private:
  checkpoint::ModelConfig config_;
  LinearModule embedding_;
  std::vector<DecoderLayer> layers_;
  mx::array norm_;
  std::optional<LinearModule> head_;  // none: tied to the embedding
  std::vector<cache::LayerShape> shapes_;
};

/// The pieces of layer `i`, loaded from the names that all our architectures use.
SelfAttention load_attention(const Weights& weights, int i);
Mlp load_mlp(const Weights& weights, int i);

/// Embedding, final norm and head around layers whose mixers `mixer(i)` loads.
template <class LoadMixer>
std::unique_ptr<Model> build_decoder(const Weights& weights, LoadMixer&& mixer) {
  const auto& config = weights.config();
  const int hidden = config.hidden_size;
  std::vector<DecoderLayer> layers;
  for (int i = 0; i < config.num_hidden_layers; ++i) {
    const std::string name = "layers." + std::to_string(i);
    layers.push_back({weights.norm(name + ".input_layernorm", hidden), mixer(i),
                      weights.norm(name + ".post_attention_layernorm", hidden),
                      load_mlp(weights, i)});
  }
  std::optional<LinearModule> head;
  if (!config.tie_word_embeddings) head = weights.head(config.vocab_size, hidden);
  return std::make_unique<Decoder>(
      config,
      weights.linear("embed_tokens", LinearModule::kEmbedding, config.vocab_size,
                     hidden),
      std::move(layers), weights.norm("norm", hidden), std::move(head));
}

}  // namespace optiq::models
