#include <cmath>
#include <limits>

#include "optiq/kernels/sampling/logit_row.h"

namespace optiq::kernels::ref {

RowMax largest_logit(const float* logits, int n) {
  RowMax best{-std::numeric_limits<float>::infinity(), 0, false};
  for (int i = 0; i < n; ++i) {
    best.has_nan |= std::isnan(logits[i]);
    if (logits[i] > best.value) best = {logits[i], i, best.has_nan};
  }
  return best;
}

double sum_exp(const float* logits, int n, float shift, float scale, double* sums) {
  double total = 0;
  for (int begin = 0; begin < n; begin += kLogitBlock) {
    double sum = 0;
    for (int i = begin; i < n && i < begin + kLogitBlock; ++i)
      sum += std::exp((static_cast<double>(logits[i]) - shift) * scale);
    sums[begin / kLogitBlock] = sum;
    total += sum;
  }
  return total;
}

int ids_above(const float* logits, int n, float threshold, int* ids) {
  int count = 0;
  for (int i = 0; i < n; ++i)
    if (logits[i] >= threshold) ids[count++] = i;
  return count;
}

}  // namespace optiq::kernels::ref
