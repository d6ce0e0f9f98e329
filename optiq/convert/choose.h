// From sensitivities to a plan: allocation, joint verification, refinement.
#pragma once
#include <string>
#include <vector>

#include "optiq/checkpoint/checkpoint.h"
#include "optiq/convert/encoder.h"
#include "optiq/convert/options.h"
#include "optiq/convert/plan.h"
#include "optiq/sensitivity/divergence.h"
#include "optiq/sensitivity/sensitivity.h"

namespace optiq::convert {

/// A plan that is in the running, and how it did.
struct Contender {
  std::string
      label;  // such as "measured", "protected", "uniform affine 4-bit group 64"
  Plan plan;
  double kl = 0;  // joint, on the calibration windows
};

/// What a plan may cost.
struct PlanBudget {
  double target_bpw = 0;                    // average bits of quantized matrices
  std::optional<std::int64_t> target_size;  // or bytes of all weight files

  /// True if the plan is within the budget. `source` tells the bytes of everything
  /// that is not quantized.
  bool allows(const checkpoint::Checkpoint& source, const std::vector<Matrix>& matrices,
              const Plan& plan) const;
};

/// The plan that minimises the summed sensitivities within the budget.
///
/// Throws    std::invalid_argument if even the narrowest formats exceed the budget; the
///           message names the smallest budget that would do.
Plan allocate_plan(const checkpoint::Checkpoint& source,
                   const std::vector<Matrix>& matrices,
                   const sensitivity::Sensitivities& sensitivities,
                   const PlanBudget& budget, int n_blocks, bool protect,
                   bool tie_fused);

/// Every uniform plan of the candidate widths that is within the budget and not worse
/// in width and group size than another that is; of one group size if that is given.
std::vector<Contender> uniform_contenders(const checkpoint::Checkpoint& source,
                                          const std::vector<Matrix>& matrices,
                                          const PlanBudget& budget, QuantMode mode,
                                          const std::vector<int>& bits,
                                          std::optional<int> group_size);

/// Measures each contender whole and returns the one with the smallest divergence: the
/// allocation assumes that divergences add up, and where they do not, uniform may win.
Contender verify_jointly(Encoder& encoder, sensitivity::DivergenceMeter& meter,
                         std::vector<Contender> contenders);

/// Measures single steps up and down around the plan, with all other layers quantized
/// as planned, and moves bits where that lowers the joint divergence; never returns a
/// worse plan.
///
/// Cost      one walk over the layers with up to two steps each, on `step_windows`
///           windows, and a few joint measurements, per round
Contender refine(const checkpoint::Checkpoint& source, Encoder& encoder,
                 sensitivity::DivergenceMeter& meter,
                 const sensitivity::Sensitivities& sensitivities,
                 const PlanBudget& budget, Contender start, bool tie_fused, int rounds,
                 int step_windows);

/// Spends what a plan leaves of the budget on wider formats of single layers, if the
/// model as a whole then measures better: a plan stays a layer or more below its budget
/// only where spending the rest does harm.
///
/// Cost      at most two joint measurements
Contender fill(const checkpoint::Checkpoint& source, Encoder& encoder,
               sensitivity::DivergenceMeter& meter,
               const sensitivity::Sensitivities& sensitivities,
               const PlanBudget& budget, Contender start, bool tie_fused);

}  // namespace optiq::convert
