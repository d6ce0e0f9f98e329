// An engine that is there only while somebody needs it.
#pragma once
#include <chrono>
#include <functional>
#include <memory>

#include "optiq/generate/engine/engine.h"

namespace optiq::generation {

struct IdleOptions {
  std::chrono::milliseconds unload_after;  // without a request
  int context_length;                      // of the engine that is made
  int max_waiting;                         // requests that wait for it to be made
};

/// Makes the inner engine when the first request comes, on a thread of its own, and
/// frees it, with weights and cache, once nobody has asked for so long. Requests wait
/// while it is made; if that fails they fail with the reason.
class IdleEngine final : public Engine {
 public:
  IdleEngine(std::function<std::unique_ptr<Engine>()> make, IdleOptions options);

  /// Ends all requests as cancelled.
  ~IdleEngine() override;

  std::uint64_t submit(EngineRequest request,
                       std::shared_ptr<EngineListener> listener) override;
  void cancel(std::uint64_t id) override;
  std::uint64_t embed(
      std::vector<int> tokens,
      std::function<void(std::vector<float>, std::string)> done) override;
  EngineStatus status() const override;
  int context_length() const override;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace optiq::generation
