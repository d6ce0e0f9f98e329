// Times forward calls of several sequences at a time.
#pragma once
#include <cstdint>
#include <vector>

#include "optiq/cache/kv_cache.h"
#include "optiq/kernels/linear/linear_primitive.h"
#include "optiq/models/model.h"

namespace optiq::app {

struct BenchmarkShape {
  int batch = 1;
  int tokens = 0;  // per sequence: of the prompt, or to decode
  int depth = 0;   // tokens that each sequence holds before
};

struct BenchmarkOptions {
  kernels::Activation activation = kernels::Activation::kInt8;
  cache::CacheOptions cache;
  int repeat = 5;
  std::uint64_t seed = 0;
};

/// The median rate of reading prompts of random tokens into empty sequences.
///
/// Units     tokens per second, all sequences counted
/// Throws    Interrupted
double prefill_rate(models::Model& model, const BenchmarkShape& shape,
                    const BenchmarkOptions& options);

/// The median rate of decoding, one token of each sequence a step. What the sequences
/// hold before is random keys and values, not a text.
double decode_rate(models::Model& model, const BenchmarkShape& shape,
                   const BenchmarkOptions& options);

/// Bytes of weights that one decode step reads.
std::int64_t step_bytes(models::Model& model);

/// Bytes that a decode step of that batch reads at that depth: weights, keys and
/// values, and recurrent states.
std::int64_t step_bytes(models::Model& model, const BenchmarkShape& shape,
                        const cache::KvCache& cache);

}  // namespace optiq::app
