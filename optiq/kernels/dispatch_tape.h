// The kernels of an evaluated graph, kept to run again without the graph.
//
// Building a graph, evaluating it and handing each kernel to the stream's thread takes
// some 10 us a node, most of it on cores that the kernels themselves want: a step of
// one token is over in 10 ms. Steps of one shape run the same kernels on the same
// memory, so the first of them is taped and the others are replayed.
#pragma once
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "mlx/array.h"

namespace optiq::kernels {

namespace mx = mlx::core;

/// What a device's kernels leave on a tape (cuda_primitive.h).
class DeviceTape {
 public:
  virtual ~DeviceTape() = default;

  /// Starts the kernels. Whoever reads what they write through host_primitive.h waits
  /// for them.
  virtual void replay() = 0;
};

/// Kernels in the order they ran, and the memory that they write.
///
/// Threads   used by one thread at a time.
class DispatchTape {
 public:
  /// Runs the kernels on the calling thread (which shares the pool as always), with
  /// whatever now lies in the memory of their inputs.
  void replay() const {
    for (const auto& kernel : kernels_) kernel();
    if (device_) device_->replay();
  }

  /// Holds memory as long as the tape is there.
  void keep(std::shared_ptr<mx::array::Data> memory) {
    memory_.push_back(std::move(memory));
  }

  /// The device's part; null until a kernel of it has run.
  std::shared_ptr<DeviceTape>& device() { return device_; }

 private:
  friend class FusedPrimitive;
  std::vector<std::function<void()>> kernels_;
  std::shared_ptr<DeviceTape> device_;
  std::vector<std::shared_ptr<mx::array::Data>> memory_;
};

/// While it lives, what FusedPrimitives of this thread dispatch goes to the tape too.
class TapeRecording {
 public:
  explicit TapeRecording(DispatchTape& tape);
  TapeRecording(const TapeRecording&) = delete;
  TapeRecording& operator=(const TapeRecording&) = delete;
  ~TapeRecording();

  /// The tape that is being written on this thread, or null.
  static DispatchTape* current();
};

/// True if a graph consists of fused operations and of views, so that a tape of its
/// evaluation misses nothing. Call it before the evaluation.
bool can_be_taped(const std::vector<mx::array>& outputs);

}  // namespace optiq::kernels
