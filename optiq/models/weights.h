// A checkpoint's tensors by the names that models use, checked against expected shapes.
#pragma once
#include <optional>
#include <string>

#include "optiq/checkpoint/checkpoint.h"
#include "optiq/checkpoint/config.h"
#include "optiq/checkpoint/names.h"
#include "optiq/checkpoint/quantization_config.h"
#include "optiq/models/model.h"

namespace optiq::models {

/// The text model inside a checkpoint. Names are relative to its layers' parent, so
/// `layers.0.mlp.up_proj` whatever the checkpoint's prefix is.
class Weights {
 public:
  explicit Weights(checkpoint::Checkpoint checkpoint);

  const checkpoint::ModelConfig& config() const { return config_; }

  /// A matrix, quantized where it has scales, with its bias if `with_bias`.
  ///
  /// Shapes    [N, K] as the model's config says
  /// Throws    CheckpointError naming the tensor.
  LinearModule linear(const std::string& name, int layer, int N, int K,
                      bool with_bias = false) const;

  /// The matrices of a mixture's experts, one below the other.
  ///
  /// Shapes    [E, N, K] in the checkpoint -> [E N, K]
  LinearModule experts(const std::string& name, int layer, int E, int N, int K) const;

  /// The output projection; the checkpoint has it beside the text model.
  LinearModule head(int N, int K) const;

  /// A small tensor as float32 [n].
  mx::array vector(const std::string& name, int n) const;

  /// A norm's weight as it multiplies: with one added where the checkpoint stores the
  /// weight less one (Hugging Face form of Qwen3.5).
  mx::array norm(const std::string& name, int n) const;

  /// A depthwise convolution as float32 [channels, kernel]; the checkpoint stores
  /// [channels, 1, kernel] or, in MLX form, [channels, kernel, 1].
  mx::array conv(const std::string& name, int channels, int kernel) const;

  /// Norms are stored less one (set by the architectures that do so).
  void set_norms_less_one(bool value) { norms_less_one_ = value; }

  /// True for what mlx-lm wrote: tensors in its form.
  bool mlx_form() const { return mlx_form_; }

 private:
  LinearModule module(const std::string& path, const std::string& name, int layer,
                      int N, int K, bool with_bias) const;

  checkpoint::Checkpoint checkpoint_;
  checkpoint::ModelConfig config_;
  std::optional<checkpoint::Quantization> quantization_;
  checkpoint::TextNames names_;
  bool mlx_form_ = false;
  bool norms_less_one_ = false;
};

}  // namespace optiq::models
