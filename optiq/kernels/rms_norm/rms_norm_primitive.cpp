#include "optiq/kernels/rms_norm/rms_norm_primitive.h"

#include "mlx/fast.h"
#include "mlx/ops.h"
#include "optiq/kernels/fused_primitive.h"
#include "optiq/kernels/rms_norm/rms_norm.h"
#include "optiq/kernels/rms_norm/rms_norm_backward.h"
#ifdef OPTIQ_CUDA
#include "optiq/kernels/cuda_primitive.h"
#include "optiq/kernels/rms_norm/rms_norm_cuda.h"
#endif

namespace optiq::kernels {
namespace {

// Inputs: x, weight, the gate if there is one, the gradient by y. Outputs: the
// gradients by x and by the gate.
class RmsNormBackward : public FusedPrimitive {
 public:
  RmsNormBackward(Fallback fallback, float eps)
      : FusedPrimitive(fused_stream(), "RmsNormBackward", std::move(fallback)),
        eps_(eps) {}

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    const auto data = [&](std::size_t i) {
      return contiguous(inputs[i]).data<float>();
    };
    for (mx::array& out : outputs) allocate(out);
    const bool gated = inputs.size() > 3;
    RmsNormBackwardArgs args{};
    args.forward.x = data(0);
    args.forward.weight = data(1);
    args.forward.gate = gated ? data(2) : nullptr;
    args.forward.dim = inputs[0].shape(-1);
    args.forward.rows = static_cast<std::int64_t>(inputs[0].size()) / args.forward.dim;
    args.forward.eps = eps_;
    args.dy = data(inputs.size() - 1);
    args.dx = outputs[0].data<float>();
    args.dgate = gated ? outputs[1].data<float>() : nullptr;
    dispatch([args] { rms_norm_backward(args); });
  }

 private:
  float eps_;
};

class RmsNorm : public FusedPrimitive {
 public:
  RmsNorm(Fallback fallback, float eps)
      : FusedPrimitive(fused_stream(), "RmsNorm", std::move(fallback)), eps_(eps) {}

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    if (!donate(inputs[0], outputs[0])) allocate(outputs[0]);
    const mx::array x = contiguous(inputs[0]);
    RmsNormArgs args{};
    args.x = x.data<float>();
    args.weight = contiguous(inputs[1]).data<float>();
    args.gate = inputs.size() > 2 ? contiguous(inputs[2]).data<float>() : nullptr;
    args.y = outputs[0].data<float>();
    args.dim = x.shape(-1);
    args.rows = static_cast<std::int64_t>(x.size()) / args.dim;
    args.eps = eps_;
    dispatch([args] { rms_norm(args); });
  }

#ifdef OPTIQ_CUDA
  void eval_gpu(const Arrays& inputs, Arrays& outputs) override {
    CudaCall call(stream(), inputs, outputs);
    allocate(outputs[0]);
    RmsNormArgs args{};
    args.x = call.values<float>(inputs[0]);
    args.weight = call.values<float>(inputs[1]);
    args.gate = inputs.size() > 2 ? call.values<float>(inputs[2]) : nullptr;
    args.y = CudaCall::data<float>(outputs[0]);
    args.dim = inputs[0].shape(-1);
    args.rows = static_cast<std::int64_t>(inputs[0].size()) / args.dim;
    args.eps = eps_;
    cuda::rms_norm(args, call.launcher());
  }
#endif

  // The weight as a constant, with a kernel.
  Arrays vjp(const Arrays& primals, const Arrays& cotangents,
             const std::vector<int>& argnums, const Arrays& outputs) override {
    bool by_kernel = runs_on_cpu();
    for (const int argnum : argnums) by_kernel = by_kernel && argnum != 1;
    if (!by_kernel) return FusedPrimitive::vjp(primals, cotangents, argnums, outputs);
    Arrays inputs = primals;
    inputs.push_back(cotangents[0]);
    std::vector<mx::Shape> shapes{primals[0].shape()};
    if (primals.size() > 2) shapes.push_back(primals[2].shape());
    const std::vector<mx::Dtype> types(shapes.size(), mx::float32);
    const auto gradients = mx::array::make_arrays(
        shapes, types, std::make_shared<RmsNormBackward>(fallback(), eps_),
        std::move(inputs));
    Arrays wanted;
    for (const int argnum : argnums) wanted.push_back(gradients[argnum == 0 ? 0 : 1]);
    return wanted;
  }

  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override {
    return {inputs[0].shape()};
  }

  float eps() const { return eps_; }

 private:
  float eps_;
};

}  // namespace

std::optional<NormOf> norm_of(const mx::array& y) {
  if (!y.has_primitive() || y.status() != mx::array::Status::unscheduled)
    return std::nullopt;
  const auto* norm = dynamic_cast<const RmsNorm*>(&y.primitive());
  if (!norm || y.inputs().size() != 2) return std::nullopt;
  return NormOf{y.inputs()[0], y.inputs()[1], norm->eps()};
}

mx::array rms_norm(const mx::array& x, const mx::array& weight, float eps,
                   const std::optional<mx::array>& gate) {
  Fallback fallback = [eps](const Arrays& in) -> Arrays {
    mx::array y = mx::fast::rms_norm(in[0], in[1], eps);
    if (in.size() > 2) y = y * (in[2] * mx::sigmoid(in[2]));
    return {y};
  };
  Arrays inputs{x, mx::astype(weight, mx::float32)};
  if (gate) inputs.push_back(*gate);
  if (!runs_kernels()) return fallback(inputs)[0];
  return mx::array(x.shape(), mx::float32,
                   std::make_shared<RmsNorm>(std::move(fallback), eps), inputs);
}

}  // namespace optiq::kernels
