#include "optiq/kernels/kl_divergence/kl_divergence.h"

#include <fmt/format.h>

#include <stdexcept>

#include "optiq/base/parallel.h"
#include "optiq/kernels/dispatch.h"

namespace optiq::kernels {

OPTIQ_DECLARE_SIMD(KlRow kl_row(const float* reference, const float* other, int vocab))
OPTIQ_DECLARE_SIMD(double log_sum_exp_row(const float* logits, int vocab))

namespace {

// Rows of a chunk: some 16k logits outweigh the claim of it.
std::size_t grain(int vocab) { return static_cast<std::size_t>(16384 / vocab + 1); }

}  // namespace

void kl_divergence(const float* reference, const float* other, std::int64_t rows,
                   int vocab, double* kl_per_row, std::uint8_t* same_top1) {
  const auto measure = OPTIQ_CHOOSE(kl_row);
  parallel_ranges(static_cast<std::size_t>(rows), grain(vocab),
                  [&](std::size_t begin, std::size_t end) {
                    for (std::size_t i = begin; i < end; ++i) {
                      const std::size_t at = i * static_cast<std::size_t>(vocab);
                      KlRow row = measure(reference + at, other + at, vocab);
                      if (!row.exact)
                        row = ref::kl_row(reference + at, other + at, vocab);
                      kl_per_row[i] = row.kl;
                      if (same_top1) same_top1[i] = row.same_top1;
                    }
                  });
}

void token_nll(const float* logits, const int* targets, std::int64_t rows, int vocab,
               double* nll) {
  for (std::int64_t i = 0; i < rows; ++i)
    if (targets[i] < 0 || targets[i] >= vocab)
      throw std::invalid_argument(
          fmt::format("token_nll: target {} of row {} is not among the {} tokens",
                      targets[i], i, vocab));
  const auto log_sum_exp = OPTIQ_CHOOSE(log_sum_exp_row);
  parallel_ranges(static_cast<std::size_t>(rows), grain(vocab),
                  [&](std::size_t begin, std::size_t end) {
                    for (std::size_t i = begin; i < end; ++i) {
                      const float* row = logits + i * static_cast<std::size_t>(vocab);
                      nll[i] = log_sum_exp(row, vocab) - row[targets[i]];
                    }
                  });
}

}  // namespace optiq::kernels
