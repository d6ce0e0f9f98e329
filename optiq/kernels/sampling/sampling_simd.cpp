// One pass over the row each; a row of 151936 logits lies in the second- or third-level
// cache after the head has written it, so these are bound by its bandwidth (the largest
// logit) and by exponentials (their sum).
#include "optiq/kernels/sampling/logit_scan.h"

namespace optiq::kernels::OPTIQ_SIMD {

RowMax largest_logit(const float* logits, int n) { return largest_of(logits, n); }

double sum_exp(const float* logits, int n, float shift, float scale, double* sums) {
  double total = 0;
  for (int begin = 0; begin < n; begin += kLogitBlock) {
    const int block = n - begin < kLogitBlock ? n - begin : kLogitBlock;
    const double sum = sum_exp_block(logits + begin, block, shift, scale);
    sums[begin / kLogitBlock] = sum;
    total += sum;
  }
  return total;
}

int ids_above(const float* logits, int n, float threshold, int* ids) {
  int count = 0, i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const VecInt above = load(logits + i) >= threshold;
    if (!any(above)) continue;
    for (int lane = 0; lane < kLanes; ++lane)
      if (above[lane]) ids[count++] = i + lane;
  }
  for (; i < n; ++i)
    if (logits[i] >= threshold) ids[count++] = i;
  return count;
}

}  // namespace optiq::kernels::OPTIQ_SIMD
