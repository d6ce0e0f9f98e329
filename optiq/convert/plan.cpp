#include "optiq/convert/plan.h"

#include "optiq/quantize/linear_weight.h"

namespace optiq::convert {

std::int64_t Matrix::bytes(const std::optional<QuantSpec>& spec) const {
  if (!spec) return params() * float_bytes;
  return quantize::encoded_bytes(*spec, N, K,
                                 float_bytes == 4 ? FloatType::kF32 : FloatType::kBF16);
}

double average_bits(const std::vector<Matrix>& matrices, const Plan& plan) {
  double bits = 0, params = 0;
  for (const Matrix& matrix : matrices) {
    const auto& spec = plan.at(matrix.path);
    if (!spec) continue;
    bits += static_cast<double>(spec->bits) * static_cast<double>(matrix.params());
    params += static_cast<double>(matrix.params());
  }
  return params > 0 ? bits / params : 0;
}

std::int64_t matrix_bytes(const std::vector<Matrix>& matrices, const Plan& plan) {
  std::int64_t bytes = 0;
  for (const Matrix& matrix : matrices) bytes += matrix.bytes(plan.at(matrix.path));
  return bytes;
}

Plan uniform_plan(const std::vector<Matrix>& matrices, const QuantSpec& spec) {
  Plan plan;
  for (const Matrix& matrix : matrices) {
    std::optional<QuantSpec> fitting;
    for (int group_size : info(spec.mode).group_sizes)
      if (group_size <= spec.group_size &&
          quantize::fits({spec.mode, spec.bits, group_size},
                         static_cast<int>(matrix.K)))
        fitting = QuantSpec{spec.mode, spec.bits, group_size};
    plan[matrix.path] = fitting;
  }
  return plan;
}

}  // namespace optiq::convert
