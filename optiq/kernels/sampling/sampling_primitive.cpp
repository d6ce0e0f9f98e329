#include "optiq/kernels/sampling/sampling_primitive.h"

#include "optiq/kernels/fused_primitive.h"
#ifdef OPTIQ_CUDA
#include <stdexcept>

#include "mlx/ops.h"
#include "optiq/kernels/cuda_primitive.h"
#include "optiq/kernels/sampling/sampling_cuda.h"
#endif

namespace optiq::kernels {

#ifdef OPTIQ_CUDA
namespace {

class LargestLogits : public FusedPrimitive {
 public:
  LargestLogits()
      : FusedPrimitive(fused_stream(), "LargestLogits", [](const Arrays& in) -> Arrays {
          return {mx::astype(mx::argmax(in[0], -1), mx::int32)};
        }) {}

  void eval_cpu(const Arrays&, Arrays&) override {
    throw std::logic_error("the largest logits: expected a GPU");
  }

  void eval_gpu(const Arrays& inputs, Arrays& outputs) override {
    allocate(outputs[0]);
    CudaCall call(stream(), inputs, outputs);
    cuda::largest_logits(call.values<float>(inputs[0]), inputs[0].shape(0),
                         inputs[0].shape(1), CudaCall::data<std::int32_t>(outputs[0]),
                         call.launcher());
  }
};

}  // namespace
#endif

std::optional<mx::array> largest_logits([[maybe_unused]] const mx::array& logits) {
#ifdef OPTIQ_CUDA
  if (!runs_on_cpu())
    return mx::array({logits.shape(0)}, mx::int32, std::make_shared<LargestLogits>(),
                     {logits});
#endif
  return std::nullopt;
}

}  // namespace optiq::kernels
