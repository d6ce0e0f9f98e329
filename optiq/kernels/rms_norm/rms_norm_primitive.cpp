#include "optiq/kernels/rms_norm/rms_norm_primitive.h"

#include "mlx/fast.h"
#include "mlx/ops.h"
#include "optiq/kernels/fused_primitive.h"
#include "optiq/kernels/rms_norm/rms_norm.h"

namespace optiq::kernels {
namespace {

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

  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override {
    return {inputs[0].shape()};
  }

 private:
  float eps_;
};

}  // namespace

mx::array rms_norm(const mx::array& x, const mx::array& weight, float eps,
                   const std::optional<mx::array>& gate) {
  Fallback fallback = [eps](const Arrays& in) -> Arrays {
    mx::array y = mx::fast::rms_norm(in[0], in[1], eps);
    if (in.size() > 2) y = y * (in[2] * mx::sigmoid(in[2]));
    return {y};
  };
  Arrays inputs{x, mx::astype(weight, mx::float32)};
  if (gate) inputs.push_back(*gate);
  if (!runs_on_cpu()) return fallback(inputs)[0];
  return mx::array(x.shape(), mx::float32,
                   std::make_shared<RmsNorm>(std::move(fallback), eps), inputs);
}

}  // namespace optiq::kernels
