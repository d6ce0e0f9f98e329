// The way of a fused operation's kernels into MLX's CUDA graph.
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
  /// Requires  rows one after another; of an output, memory
  template <class T>
  static T* data(const mx::array& x) {
    return static_cast<T*>(address(x));
  }

  /// Memory until the kernels are done.
  void* scratch(std::size_t bytes);

  Launcher launcher();

 private:
  static void* address(const mx::array& x);

  mx::Stream stream_;
  const Arrays& inputs_;
  const Arrays& outputs_;
  Arrays scratch_;
};

}  // namespace optiq::kernels
