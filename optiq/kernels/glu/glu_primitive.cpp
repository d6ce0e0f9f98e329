#include "optiq/kernels/glu/glu_primitive.h"

#include "mlx/ops.h"
#include "optiq/kernels/fused_primitive.h"
#ifdef OPTIQ_CUDA
#include "optiq/kernels/cuda_primitive.h"
#include "optiq/kernels/glu/glu_cuda.h"
#endif

namespace optiq::kernels {
namespace {

Fallback fallback_of(GluGate f) {
  return [f](const Arrays& in) -> Arrays { return {plain_gate(in[0], f) * in[1]}; };
}

class GluProductBackward : public FusedPrimitive {
 public:
  explicit GluProductBackward(GluGate f)
      : FusedPrimitive(fused_stream(), "GluProductBackward", fallback_of(f)), f_(f) {}

  // Inputs: gate, up, the gradient by their product. Outputs: by gate and by up.
  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    const mx::array g = contiguous(inputs[0]), u = contiguous(inputs[1]);
    const mx::array dy = contiguous(inputs[2]);
    for (mx::array& out : outputs) allocate(out);
    dispatch([f = f_, g = g.data<float>(), u = u.data<float>(), dy = dy.data<float>(),
              dg = outputs[0].data<float>(), du = outputs[1].data<float>(),
              n = static_cast<std::int64_t>(g.size())] {
      glu_product_backward(f, g, u, dy, dg, du, n);
    });
  }

 private:
  GluGate f_;
};

class GluProduct : public FusedPrimitive {
 public:
  explicit GluProduct(GluGate f)
      : FusedPrimitive(fused_stream(), "GluProduct", fallback_of(f)), f_(f) {}

  Arrays vjp(const Arrays& primals, const Arrays& cotangents,
             const std::vector<int>& argnums, const Arrays& outputs) override {
    if (!runs_on_cpu())
      return FusedPrimitive::vjp(primals, cotangents, argnums, outputs);
    const Arrays both =
        glu_product_gradients(primals[0], primals[1], cotangents[0], f_);
    Arrays wanted;
    for (const int argnum : argnums)
      wanted.push_back(both[static_cast<std::size_t>(argnum)]);
    return wanted;
  }

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    if (!donate(inputs[0], outputs[0])) allocate(outputs[0]);
    const mx::array gate = contiguous(inputs[0]), up = contiguous(inputs[1]);
    dispatch(
        [f = f_, g = gate.data<float>(), u = up.data<float>(),
         y = outputs[0].data<float>(),
         n = static_cast<std::int64_t>(gate.size())] { glu_product(f, g, u, y, n); });
  }

#ifdef OPTIQ_CUDA
  void eval_gpu(const Arrays& inputs, Arrays& outputs) override {
    CudaCall call(stream(), inputs, outputs);
    allocate(outputs[0]);
    cuda::glu_product(f_, call.values<float>(inputs[0]), call.values<float>(inputs[1]),
                      CudaCall::data<float>(outputs[0]),
                      static_cast<std::int64_t>(outputs[0].size()), call.launcher());
  }
#endif

 private:
  GluGate f_;
};

}  // namespace

mx::array plain_gate(const mx::array& gate, GluGate f) {
  if (f == GluGate::kSilu) return gate * mx::sigmoid(gate);
  constexpr float kTwice = 1.5957691216057308f;  // 2 sqrt(2 / pi)
  return gate * mx::sigmoid(kTwice * (gate + 0.044715f * gate * gate * gate));
}

std::vector<mx::array> glu_product_gradients(const mx::array& gate, const mx::array& up,
                                             const mx::array& dy, GluGate f) {
  return mx::array::make_arrays({gate.shape(), up.shape()}, {mx::float32, mx::float32},
                                std::make_shared<GluProductBackward>(f),
                                {gate, up, dy});
}

mx::array glu_product(const mx::array& gate, const mx::array& up, GluGate f) {
  if (!runs_kernels()) return fallback_of(f)({gate, up})[0];
  return mx::array(gate.shape(), mx::float32, std::make_shared<GluProduct>(f),
                   Arrays{gate, up});
}

}  // namespace optiq::kernels
