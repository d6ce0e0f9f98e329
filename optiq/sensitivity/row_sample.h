// Some rows of a matrix in place of all: what a format costs can be told from them.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "optiq/kernels/linear/linear_primitive.h"

namespace optiq::sensitivity {

/// Rows of an [N, K] matrix, ascending.
struct RowSample {
  std::vector<int> rows;  // empty: all
  double scale = 1;       // of a sum over the rows, for one over all of them

  bool is_all() const { return rows.empty(); }
};

/// `n` rows at equal distances; all if there are no more.
RowSample even_rows(int N, std::int64_t n);

/// The `n` rows that count most; all if there are no more. `scale` is that of counts.
RowSample frequent_rows(std::span<const std::int64_t> counts, std::int64_t n);

/// Those rows of a dense or quantized matrix, without its bias.
kernels::LinearWeight rows_of(const kernels::LinearWeight& w, const RowSample& sample);

}  // namespace optiq::sensitivity
