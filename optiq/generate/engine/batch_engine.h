// Answers many requests at once: those that decode share each forward call, and prompts
// are read in between.
#pragma once
#include <chrono>
#include <memory>

#include "optiq/cache/cache_options.h"
#include "optiq/generate/draft/draft.h"
#include "optiq/generate/engine/engine.h"
#include "optiq/generate/forward.h"
#include "optiq/generate/loaded_model.h"
#include "optiq/kernels/linear/activation.h"

namespace optiq::generation {

struct BatchOptions {
  int max_concurrent = 8;
  int max_queue = 64;      // requests that wait; more are refused
  int context_length = 0;  // 0: the model's own; more than that is allowed
  cache::CacheOptions cache;
  kernels::Activation activation = kernels::Activation::kInt8;
  DraftOptions draft{};                  // guesses that steps of few sequences check
  std::uint64_t prefix_bytes = 0;        // of the prefix cache; 0: half of the cache's
                                         // budget, at most 4 GB
  int prefill_rows = rows_of_prefill();  // of a call while nobody decodes
  std::chrono::milliseconds stall{
      150};  // that a prompt's call may hold up those who do
  std::chrono::milliseconds stuck_after{120'000};  // without a step, requests fail
};

/// Requests that share a step at its best: BatchOptions' own, on a GPU 32.
int usual_concurrency();

/// A greedy request gives the same tokens alone and beside others (on a GPU up to 8 of
/// them, but for near ties beyond: docs/cuda.md), from a warm prefix
/// cache and a cold one: kernels give each row the same bits whichever rows share the
/// call, and prompts are cut where the load does not show (prefill_cut.h). Only the
/// answer of an earlier turn is remembered as it was decoded, not as it would be read.
///
/// Cost      docs/decisions/scheduling.md
class BatchEngine final : public Engine {
 public:
  /// Throws    std::invalid_argument for options that do not fit the model;
  /// ResourceError
  BatchEngine(std::shared_ptr<LoadedModel> model, BatchOptions options);

  /// Ends all requests as cancelled.
  ~BatchEngine() override;

  std::uint64_t submit(EngineRequest request,
                       std::shared_ptr<EngineListener> listener) override;
  void cancel(std::uint64_t id) override;
  std::uint64_t embed(
      std::vector<int> tokens,
      std::function<void(std::vector<float>, std::string)> done) override;
  EngineStatus status() const override;
  int context_length() const override;

  /// Forgets all kept prefixes, once no step is on its way.
  void clear_prefixes();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace optiq::generation
