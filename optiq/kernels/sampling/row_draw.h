// A draw from one row of logits, as it can be made wherever the row lies.
#pragma once
#include <cstdint>

namespace optiq::kernels {

/// What Sampler would do with a row as the model gives it: SamplingOptions' fields, and
/// the number that it draws.
struct RowDraw {
  double number = 0;  // in [0, 1)
  float scale = 0;    // 1 / temperature; 0: the largest logit, nothing is drawn
  float top_p = 1;
  float min_p = 0;
  std::int32_t top_k = 0;

  bool operator==(const RowDraw&) const = default;
};

}  // namespace optiq::kernels
