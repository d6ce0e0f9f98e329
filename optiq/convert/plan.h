// A format for each matrix, and what the file will weigh.
#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "optiq/kernels/quant_mode.h"

namespace optiq::convert {

/// The format of each matrix by its path in the source checkpoint; none: kept as it is.
using Plan = std::map<std::string, std::optional<QuantSpec>>;

/// One matrix that may be quantized.
struct Matrix {
  std::string path;
  std::int64_t N = 0;
  std::int64_t K = 0;
  int float_bytes = 2;  // of one value as it is
  std::int64_t params() const { return N * K; }
  std::int64_t bytes(const std::optional<QuantSpec>& spec) const;
};

/// sum(bits params) / sum(params) over the quantized matrices.
double average_bits(const std::vector<Matrix>& matrices, const Plan& plan);

/// Bytes of all matrices under the plan.
std::int64_t matrix_bytes(const std::vector<Matrix>& matrices, const Plan& plan);

/// The same format for every matrix that it fits; else the mode's next smaller group,
/// else none.
Plan uniform_plan(const std::vector<Matrix>& matrices, const QuantSpec& spec);

}  // namespace optiq::convert
