// How far one model's next-token distributions are from another's, row by row.
#pragma once
#include <cstdint>

namespace optiq::kernels {

/// KL(softmax(reference) || softmax(other)) of each row, and whether both have the same
/// likeliest token (of equal ones the lowest id).
///
/// Shapes    reference, other [rows, vocab]; kl_per_row, same_top1 [rows]
/// Units     nats
/// Requires  vocab >= 1. A row with NaN or +infinity gives NaN; a token that only the
///           reference allows gives +infinity; same_top1 may be null.
/// Cost      three exponentials for each token
/// Source    with d = reference - other and c = sum p d, KL = log(1 + sum p f(d - c)),
///           f(t) = e^-t - 1 + t: no term is negative, so nothing cancels, and a KL of
///           1e-9 is as accurate as the logits' differences are.
void kl_divergence(const float* reference, const float* other, std::int64_t rows,
                   int vocab, double* kl_per_row, std::uint8_t* same_top1);

/// -log softmax(logits)[target] of each row.
///
/// Shapes    logits [rows, vocab]; targets, nll [rows]
/// Units     nats
/// Throws    std::invalid_argument if a target is no token
void token_nll(const float* logits, const int* targets, std::int64_t rows, int vocab,
               double* nll);

/// One row's numbers.
struct KlRow {
  double kl;
  bool same_top1;
  bool exact;  // false: the row is out of the range of float arithmetic
};

namespace ref {
/// The definition, in double precision.
KlRow kl_row(const float* reference, const float* other, int vocab);
double log_sum_exp_row(const float* logits, int vocab);
}  // namespace ref

}  // namespace optiq::kernels
