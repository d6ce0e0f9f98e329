// What the second matrices of single experts are given, for those who look.
#pragma once
#include "optiq/kernels/experts/experts_primitive.h"
#include "optiq/models/layers/layer.h"

namespace optiq::models {

/// Tells the call's expert observer, if there is one, of what each expert's `down` is
/// given. Computed for that alone: the experts' own kernel keeps it to itself.
///
/// Shapes    x [T, K], as the experts take it
void show_expert_inputs(const LayerCall& call, const mx::array& x,
                        const kernels::Route& route, const LinearModule& gate,
                        const LinearModule& up, const LinearModule& down,
                        kernels::GluGate f);

}  // namespace optiq::models
