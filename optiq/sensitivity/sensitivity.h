// How much the model's answers change when one layer alone is quantized.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "optiq/kernels/quant_mode.h"

namespace optiq::sensitivity {

/// One matrix at one format.
struct FormatCost {
  QuantSpec spec;
  std::int64_t bytes = 0;   // codes, scales and biases
  double kl = 0;            // nats per token: KL(reference || this layer alone at spec)
  double kl_error = 0;      // standard error of kl over the windows
  double weight_error = 0;  // relative: importance-weighted ||w - w'||^2 / ||w||^2
};

struct LayerSensitivity {
  std::string name;  // in the checkpoint, such as model.layers.0.mlp.up_proj
  int layer = 0;     // -1 the embedding, n_layers the head
  std::int64_t params = 0;
  std::vector<FormatCost> formats;  // by rising bits
};

/// What the reference was.
///   kBf16        the checkpoint's own weights
///   kUniform4Bit the model at 4 bits with the one layer's own weights, for a model
///   that
///                does not fit memory
enum class Reference { kBf16, kUniform4Bit };
const char* name(Reference reference);

struct Sensitivities {
  std::string method;  // optiq or static
  Reference reference = Reference::kBf16;
  std::vector<LayerSensitivity> layers;  // in the order data walks
  std::int64_t tokens = 0;               // of the calibration
  bool compensated = false;  // costs are of codes that make up for each other
};

}  // namespace optiq::sensitivity
