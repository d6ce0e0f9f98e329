// Measures each layer's divergence at each format: the signal that decides the bits.
#pragma once
#include <functional>
#include <string>
#include <unordered_map>
#include <vector>

#include "optiq/quantize/encoded_tensor.h"
#include "optiq/sensitivity/divergence.h"
#include "optiq/sensitivity/sensitivity.h"

namespace optiq::sensitivity {

struct MeasureOptions {
  std::vector<QuantSpec> formats;  // by rising bits
  quantize::Search search = quantize::Search::kSearch;

  /// Windows on which the anchor format is measured; 0: all.
  int anchor_windows = 0;

  /// Windows on which the other formats are. Their divergence is scaled by the anchor's
  /// on its windows over the anchor's on these (a ratio estimate: windows differ far
  /// more than the ratio between two widths does). 0: as the anchor.
  int ratio_windows = 0;

  /// Where the model does not have its own weights but those of a reference that fits
  /// memory: a layer's own weights by path. Each layer is then measured against the
  /// model with that layer's own weights, all others being the reference's.
  std::function<kernels::LinearWeight(const std::string& path)> own_weights;

  /// Layers that are known from an interrupted run, by name.
  std::unordered_map<std::string, LayerSensitivity> known;

  /// Called after each layer, so that it can be saved.
  std::function<void(const LayerSensitivity&, std::size_t done, std::size_t total)>
      on_layer;
};

/// KL(reference || model with one layer alone at one format), layer by layer, each
/// layer's encoding weighted by its inputs.
///
/// Requires  a meter at its start, the model's weights being the reference's.
/// Throws    Interrupted; std::invalid_argument for weights that are not finite.
/// Cost      for L layers and F formats about L / 2 forward calls over the anchor's
///           windows and L (F - 1) / 2 over the others'.
/// Source    the method of mlx-optiq (docs/decisions/sensitivity.md), without its
///           repeated prefixes.
Sensitivities measure(models::Model& model, DivergenceMeter& meter,
                      const InputStatistics& statistics, const MeasureOptions& options);

/// sum importance_k w_nk^2; importance [K], or empty: all 1.
double squared_norm(const kernels::LinearWeight& w,
                    const std::vector<float>& importance);

/// The format that is measured on every window: 4 bits where that is a candidate, else
/// the narrowest.
std::size_t anchor_format(const std::vector<QuantSpec>& formats);

}  // namespace optiq::sensitivity
