// What each matrix would cost at each format, from one pass forward and one back.
#pragma once
#include <span>

#include "optiq/quantize/moments.h"
#include "optiq/sensitivity/measure.h"

namespace optiq::sensitivity {

struct GradientCostOptions {
  std::vector<QuantSpec> formats;  // by rising bits, then by falling groups
  quantize::Search search = quantize::Search::kSearch;
  std::int64_t input_bytes = 1LL << 30;  // that layers' inputs may take: of windows,
                                         // the first that fit are used, at least one
  // A row of K values does K^2 of it. A matrix that does no more is encoded whole,
  // others in so many rows that a quarter does, at least 256.
  std::int64_t work = std::int64_t{1} << 29;
  bool probe = true;       // measure what no gradient reaches: experts
  int probe_windows = 0;   // on which; 0: all
  std::uint64_t seed = 0;  // of the tokens that the model draws
  std::function<void(std::size_t done, std::size_t total)> on_layer;

  /// Costs before they are scaled that are known from an interrupted run, by name, and
  /// told as they are found, so that they can be saved.
  std::unordered_map<std::string, LayerSensitivity> known;
  std::function<void(const LayerSensitivity&)> on_costs;

  /// How a matrix is encoded whose costs are estimated, in each of some formats, given
  /// the moments of its inputs: not those of experts.
  /// None: by `search`, weighted by its inputs' mean squares.
  std::function<std::vector<quantize::EncodedTensor>(const models::LinearModule&,
                                                     std::span<const QuantSpec>,
                                                     const quantize::Moments&)>
      encode;
};

/// Estimates of KL(reference || model with one matrix alone at one format), to second
/// order. For tokens y drawn from what the model says itself, the divergence of small
/// changes dy of a matrix's products is
///
///     E (sum_n g_n dy_n)^2 / 2,   g = the gradient of log p(y) by the products,
///
/// the Fisher information along dy; tokens, and the errors of rows, are taken to be
/// independent. So large matrices are encoded in some rows only: those of the
/// vocabulary that are read or drawn most, of others every so many.
///
/// Encoding by moments takes most of the time, so it is done for one format of each
/// width up to 4 bits. Others cost in proportion to their errors without moments.
///
/// Experts get their layer's mean cost for an error of their size, scaled to what one
/// measurement of all of them in the anchor format says.
///
/// Requires  a meter at its start, made of `windows`, the model's weights being the
///           reference's.
/// Throws    as measure()
/// Cost      forward and back over the windows once, layer by layer, so that weights
///           mapped from a file are read once each way; for three formats the encoding
///           of some rows of each matrix and their product; about L / 2 forward calls
///           over the probes' windows where there are experts. Holds each layer's
///           inputs, and of one layer those of its matrices and the gradients by their
///           products.
/// Source    docs/decisions/sensitivity.md. The Fisher form of the divergence: Amari
/// and
///           Nagaoka 2000, section 2.2; drawn labels: Kunstner et al. 2019.
Sensitivities gradient_costs(models::Model& model, DivergenceMeter& meter,
                             const std::vector<std::vector<int>>& windows,
                             const InputStatistics& statistics,
                             const GradientCostOptions& options);

}  // namespace optiq::sensitivity
