#include "optiq/kernels/sampling/sampling_primitive.h"

#include "optiq/kernels/fused_primitive.h"
#ifdef OPTIQ_CUDA
#include <stdexcept>

#include "optiq/kernels/cuda_primitive.h"
#include "optiq/kernels/sampling/sampling_cuda.h"
#endif

namespace optiq::kernels {

#ifdef OPTIQ_CUDA
namespace {

class ChooseTokens : public FusedPrimitive {
 public:
  ChooseTokens()
      : FusedPrimitive(fused_stream(), "ChooseTokens", [](const Arrays&) -> Arrays {
          throw std::logic_error("the choice of tokens has no gradient");
        }) {}

  void eval_cpu(const Arrays&, Arrays&) override {
    throw std::logic_error("the choice of tokens: expected a GPU");
  }

  void eval_gpu(const Arrays& inputs, Arrays& outputs) override {
    allocate(outputs[0]);
    CudaCall call(stream(), inputs, outputs);
    const auto* draws = CudaCall::data<std::uint32_t>(inputs[1]);
    cuda::choose_tokens(call.values<float>(inputs[0]), inputs[0].shape(0),
                        inputs[0].shape(1), reinterpret_cast<const RowDraw*>(draws),
                        CudaCall::data<std::int32_t>(outputs[0]), call.launcher());
  }
};

}  // namespace
#endif

mx::array draws_array(std::span<const RowDraw> draws) {
  constexpr int kWords = sizeof(RowDraw) / sizeof(std::uint32_t);
  return mx::array(reinterpret_cast<const std::uint32_t*>(draws.data()),
                   {static_cast<int>(draws.size()), kWords}, mx::uint32);
}

std::optional<mx::array> choose_tokens([[maybe_unused]] const mx::array& logits,
                                       [[maybe_unused]] const mx::array& draws) {
#ifdef OPTIQ_CUDA
  if (!runs_on_cpu())
    return mx::array({logits.shape(0)}, mx::int32, std::make_shared<ChooseTokens>(),
                     {logits, draws});
#endif
  return std::nullopt;
}

}  // namespace optiq::kernels
