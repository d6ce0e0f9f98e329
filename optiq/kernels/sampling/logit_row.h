// Questions to one row of logits that go through all of it.
#pragma once

namespace optiq::kernels {

/// Logits whose exponentials are summed in float before they join a sum in double.
constexpr int kLogitBlock = 512;

struct RowMax {
  float value;
  int id;
  bool has_nan;
};

/// The largest logit and the lowest id that has it.
RowMax largest_logit(const float* logits, int n);

/// sums[b] = sum e^((x - shift) scale) over block b of kLogitBlock logits; gives the
/// total.
double sum_exp(const float* logits, int n, float shift, float scale, double* sums);

/// Writes the ids of logits >= threshold, ascending, and gives their number.
int ids_above(const float* logits, int n, float threshold, int* ids);

namespace ref {
RowMax largest_logit(const float* logits, int n);
double sum_exp(const float* logits, int n, float shift, float scale, double* sums);
int ids_above(const float* logits, int n, float threshold, int* ids);
}  // namespace ref

}  // namespace optiq::kernels
