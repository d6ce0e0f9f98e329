#include "optiq/kernels/elementwise/elementwise_primitive.h"

#include "mlx/ops.h"
#include "optiq/kernels/elementwise/elementwise.h"
#include "optiq/kernels/fused_primitive.h"
#ifdef OPTIQ_CUDA
#include "optiq/kernels/cuda_primitive.h"
#include "optiq/kernels/elementwise/elementwise_cuda.h"
#endif

namespace optiq::kernels {
namespace {

class ScaledSum : public FusedPrimitive {
 public:
  ScaledSum(Fallback fallback, float scale)
      : FusedPrimitive(fused_stream(), "ScaledSum", std::move(fallback)),
        scale_(scale) {}

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    if (!donate(inputs[0], outputs[0])) allocate(outputs[0]);
    const float* b = inputs.size() > 1 ? contiguous(inputs[1]).data<float>() : nullptr;
    dispatch([a = contiguous(inputs[0]).data<float>(), b, scale = scale_,
              y = outputs[0].data<float>(),
              n = static_cast<std::int64_t>(outputs[0].size())] {
      scaled_sum(a, b, scale, y, n);
    });
  }

#ifdef OPTIQ_CUDA
  void eval_gpu(const Arrays& inputs, Arrays& outputs) override {
    CudaCall call(stream(), inputs, outputs);
    allocate(outputs[0]);
    cuda::scaled_sum(call.values<float>(inputs[0]),
                     inputs.size() > 1 ? call.values<float>(inputs[1]) : nullptr,
                     scale_, CudaCall::data<float>(outputs[0]),
                     static_cast<std::int64_t>(outputs[0].size()), call.launcher());
  }
#endif

 private:
  float scale_;
};

class GatedSum : public FusedPrimitive {
 public:
  explicit GatedSum(Fallback fallback)
      : FusedPrimitive(fused_stream(), "GatedSum", std::move(fallback)) {}

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    if (!donate(inputs[0], outputs[0])) allocate(outputs[0]);
    dispatch([a = contiguous(inputs[0]).data<float>(),
              b = contiguous(inputs[1]).data<float>(),
              gate = contiguous(inputs[2]).data<float>(), y = outputs[0].data<float>(),
              rows = inputs[0].shape(0),
              n = inputs[0].shape(1)] { gated_sum(a, b, gate, y, rows, n); });
  }

#ifdef OPTIQ_CUDA
  void eval_gpu(const Arrays& inputs, Arrays& outputs) override {
    CudaCall call(stream(), inputs, outputs);
    allocate(outputs[0]);
    cuda::gated_sum(call.values<float>(inputs[0]), call.values<float>(inputs[1]),
                    call.values<float>(inputs[2]), CudaCall::data<float>(outputs[0]),
                    inputs[0].shape(0), inputs[0].shape(1), call.launcher());
  }
#endif
};

class Softcap : public FusedPrimitive {
 public:
  Softcap(Fallback fallback, float cap)
      : FusedPrimitive(fused_stream(), "Softcap", std::move(fallback)), cap_(cap) {}

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    if (!donate(inputs[0], outputs[0])) allocate(outputs[0]);
    dispatch(
        [x = contiguous(inputs[0]).data<float>(), cap = cap_,
         y = outputs[0].data<float>(),
         n = static_cast<std::int64_t>(outputs[0].size())] { softcap(x, cap, y, n); });
  }

#ifdef OPTIQ_CUDA
  void eval_gpu(const Arrays& inputs, Arrays& outputs) override {
    CudaCall call(stream(), inputs, outputs);
    allocate(outputs[0]);
    cuda::softcap(call.values<float>(inputs[0]), cap_,
                  CudaCall::data<float>(outputs[0]),
                  static_cast<std::int64_t>(outputs[0].size()), call.launcher());
  }
#endif

 private:
  float cap_;
};

}  // namespace

mx::array scaled_sum(const mx::array& a, const std::optional<mx::array>& b,
                     float scale) {
  Arrays inputs{a};
  if (b) inputs.push_back(*b);
  Fallback fallback = [scale](const Arrays& in) -> Arrays {
    const mx::array sum = in.size() > 1 ? in[0] + in[1] : in[0];
    return {scale == 1 ? sum : sum * scale};
  };
  if (!runs_kernels()) return fallback(inputs)[0];
  return mx::array(a.shape(), mx::float32,
                   std::make_shared<ScaledSum>(std::move(fallback), scale), inputs);
}

mx::array gated_sum(const mx::array& a, const mx::array& b, const mx::array& gate) {
  Fallback fallback = [](const Arrays& in) -> Arrays {
    return {in[0] + mx::sigmoid(in[2]) * in[1]};
  };
  if (!runs_kernels()) return fallback({a, b, gate})[0];
  return mx::array(a.shape(), mx::float32,
                   std::make_shared<GatedSum>(std::move(fallback)), Arrays{a, b, gate});
}

mx::array softcap(const mx::array& x, float cap) {
  Fallback fallback = [cap](const Arrays& in) -> Arrays {
    return {mx::tanh(in[0] / cap) * cap};
  };
  if (!runs_kernels()) return fallback({x})[0];
  return mx::array(x.shape(), mx::float32,
                   std::make_shared<Softcap>(std::move(fallback), cap), Arrays{x});
}

}  // namespace optiq::kernels
