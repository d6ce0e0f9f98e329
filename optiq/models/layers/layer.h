// What every layer of a model is given besides its input.
#pragma once
#include "optiq/models/model.h"

namespace optiq::models {

/// The call that a layer takes part in.
struct LayerCall {
  int index;  // of the layer, counted in the model
  const Batch& batch;
  const InputObserver& observer;

  void observe(const LinearModule& module, const mx::array& x) const {
    if (observer) observer(module, x);
  }
};

}  // namespace optiq::models
