// The way of a fused operation's kernels into MLX's CUDA graph, and onto a tape.
#pragma once
#include "optiq/kernels/cuda_launch.h"
#include "optiq/kernels/fused_primitive.h"

namespace optiq::kernels {

/// One call of eval_gpu. Its kernels run one after another, behind those that made the
/// inputs.
///
/// Requires  inputs and outputs that outlive it
class CudaCall {
 public:
  CudaCall(mx::Stream stream, const Arrays& inputs, const Arrays& outputs)
      : stream_(stream), inputs_(inputs), outputs_(outputs) {}

  /// Where an array lies on the device.
  ///
  /// Requires  of an output, memory
  template <class T>
  static T* data(const mx::array& x) {
    return static_cast<T*>(address(x));
  }

  /// The array itself where its rows lie one after another, else a copy.
  mx::array in_rows(const mx::array& x);

  /// Where an array's values lie, one after another.
  template <class T>
  const T* values(const mx::array& x) {
    return data<T>(in_rows(x));
  }

  /// Memory until the kernels are done.
  void* scratch(std::size_t bytes);

  /// Requires  outputs with memory: kernels that share none with those before are not
  ///           kept behind them
  Launcher launcher();

 private:
  static void* address(const mx::array& x);
  mx::array temporary(const mx::Shape& shape, mx::Dtype type);

  mx::Stream stream_;
  const Arrays& inputs_;
  const Arrays& outputs_;
  Arrays scratch_;
};

namespace cuda {

/// Copies between the host and where an evaluated array lies, or between two, whose
/// memory stays on the device; done when they return.
void write(const mx::array& to, const void* from);
void read(const mx::array& from, std::size_t first, std::size_t bytes, void* to);

void copy(const mx::array& to, const mx::array& from);

/// Where it lies on the device.
const void* address_of(const mx::array& x);

/// Until it is called with false, writes of this thread are not waited for: they come
/// in front of a tape's replay.
///
/// Requires  nothing on its way when it begins
void queue_writes(bool queue);

/// A copy of an evaluated array, at home on the device.
///
/// Throws    ResourceError if there is no memory for it
mx::array copy_of(const mx::array& x);

}  // namespace cuda
}  // namespace optiq::kernels
