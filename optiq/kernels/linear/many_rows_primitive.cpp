#include "optiq/kernels/linear/many_rows_primitive.h"

#include <algorithm>
#include <stdexcept>
#include <string_view>

#include "mlx/fast.h"
#include "mlx/ops.h"
#include "mlx/primitives.h"
#include "optiq/kernels/cuda_primitive.h"
#include "optiq/kernels/glu/glu_primitive.h"
#include "optiq/kernels/linear/many_rows_cuda.h"
#include "optiq/kernels/linear/weight_primitive.h"
#include "optiq/kernels/rms_norm/rms_norm_primitive.h"

namespace optiq::kernels {
namespace {

// Of what the CPU has other ways for.
class OnDevice : public FusedPrimitive {
 public:
  OnDevice(const char* name, Fallback fallback)
      : FusedPrimitive(fused_stream(), name, std::move(fallback)) {}

  void eval_cpu(const Arrays&, Arrays&) override {
    throw std::logic_error(std::string(name()) + ": expected a GPU");
  }
};

std::uint16_t* halves(const mx::array& x) { return CudaCall::data<std::uint16_t>(x); }

// Inputs: x, the weight of its norm where it is to be normed.
class NarrowRows : public OnDevice {
 public:
  explicit NarrowRows(std::optional<float> eps)
      : OnDevice("NarrowRows",
                 [eps](const Arrays& in) -> Arrays {
                   const mx::array x =
                       eps ? mx::fast::rms_norm(in[0], in[1], *eps) : in[0];
                   return {mx::astype(x, mx::bfloat16)};
                 }),
        eps_(eps) {}

  void eval_gpu(const Arrays& inputs, Arrays& outputs) override {
    allocate(outputs[0]);
    CudaCall call(stream(), inputs, outputs);
    cuda::NarrowRowsArgs args{};
    args.x = call.values<float>(inputs[0]);
    if (eps_) {
      args.norm_weight = call.values<float>(inputs[1]);
      args.norm_eps = *eps_;
    }
    args.to = halves(outputs[0]);
    args.rows = inputs[0].shape(0);
    args.K = inputs[0].shape(1);
    cuda::narrow_rows(args, call.launcher());
  }

 private:
  std::optional<float> eps_;
};

// Inputs: the arrays of the weights. Output: all of them, one below the other.
class Dequantize : public OnDevice {
 public:
  explicit Dequantize(std::vector<WeightSlots> weights)
      : OnDevice("Dequantize",
                 [weights](const Arrays& in) -> Arrays {
                   Arrays all;
                   for (const WeightSlots& w : weights)
                     all.push_back(plain_dequantized(in, w, mx::bfloat16));
                   return {mx::concatenate(all, 0)};
                 }),
        weights_(std::move(weights)) {}

  void eval_gpu(const Arrays& inputs, Arrays& outputs) override {
    allocate(outputs[0]);
    CudaCall call(stream(), inputs, outputs);
    std::uint16_t* to = halves(outputs[0]);
    for (const WeightSlots& slots : weights_) {
      const MatrixView w = view_of(
          inputs, slots, [&](const mx::array& x) { return call.in_rows(x); },
          [](const mx::array& x) {
            return static_cast<const void*>(CudaCall::data<char>(x));
          });
      cuda::dequantize(w, to, call.launcher());
      to += std::int64_t{w.N} * w.K;
    }
  }

 private:
  std::vector<WeightSlots> weights_;
};

// Inputs: y, then each part's bias where it has one, the residual of the first where
// there is one. Outputs: a part's columns each.
class WidenRows : public OnDevice {
 public:
  WidenRows(std::vector<bool> biased, std::vector<int> widths, bool has_residual)
      : OnDevice("WidenRows",
                 [=](const Arrays& in) -> Arrays {
                   Arrays all;
                   std::size_t next = 1;
                   for (std::size_t i = 0, at = 0; i < widths.size(); ++i) {
                     const auto first = static_cast<int>(at);
                     at += static_cast<std::size_t>(widths[i]);
                     mx::array y =
                         mx::astype(mx::slice(in[0], {0, first},
                                              {in[0].shape(0), static_cast<int>(at)}),
                                    mx::float32);
                     if (biased[i]) y = y + mx::astype(in[next++], mx::float32);
                     if (i == 0 && has_residual) y = y + in.back();
                     all.push_back(y);
                   }
                   return all;
                 }),
        biased_(std::move(biased)),
        widths_(std::move(widths)),
        has_residual_(has_residual) {}

  void eval_gpu(const Arrays& inputs, Arrays& outputs) override {
    for (mx::array& out : outputs) allocate(out);
    CudaCall call(stream(), inputs, outputs);
    std::vector<cuda::WidePart> parts;
    std::size_t next = 1;
    for (std::size_t i = 0; i < widths_.size(); ++i) {
      cuda::WidePart part{};
      if (biased_[i]) {
        part.bias = call.values<char>(inputs[next]);
        part.bias_type = float_type_of(inputs[next++].dtype());
      }
      if (i == 0 && has_residual_) part.residual = call.values<float>(inputs.back());
      part.to = CudaCall::data<float>(outputs[i]);
      part.N = widths_[i];
      parts.push_back(part);
    }
    cuda::widen_rows(call.values<std::uint16_t>(inputs[0]), inputs[0].shape(0), parts,
                     call.launcher());
  }

 private:
  std::vector<bool> biased_;
  std::vector<int> widths_;
  bool has_residual_;
};

class GluHalves : public OnDevice {
 public:
  explicit GluHalves(GluGate f)
      : OnDevice("GluHalves",
                 [f](const Arrays& in) -> Arrays {
                   const int T = in[0].shape(0), N = in[0].shape(1) / 2;
                   const mx::array y = mx::astype(in[0], mx::float32);
                   return {mx::astype(plain_gate(mx::slice(y, {0, 0}, {T, N}), f) *
                                          mx::slice(y, {0, N}, {T, 2 * N}),
                                      mx::bfloat16)};
                 }),
        f_(f) {}

  void eval_gpu(const Arrays& inputs, Arrays& outputs) override {
    allocate(outputs[0]);
    CudaCall call(stream(), inputs, outputs);
    cuda::glu_halves(f_, call.values<std::uint16_t>(inputs[0]), outputs[0].shape(0),
                     outputs[0].shape(1), halves(outputs[0]), call.launcher());
  }

 private:
  GluGate f_;
};

// x as bfloat16: what it was widened from, normed on the way, or as it is.
mx::array narrow_rows(const mx::array& x) {
  if (x.has_primitive() && x.status() == mx::array::Status::unscheduled &&
      std::string_view(x.primitive().name()) == "AsType" &&
      x.inputs()[0].dtype() == mx::bfloat16)
    return x.inputs()[0];
  Arrays inputs{x};
  std::optional<float> eps;
  if (const auto norm = norm_of(x)) {
    inputs = {norm->x, norm->weight};
    eps = norm->eps;
  }
  return mx::array(x.shape(), mx::bfloat16, std::make_shared<NarrowRows>(eps), inputs);
}

mx::array product(const mx::array& x, std::span<const LinearWeight> weights) {
  return mx::matmul(narrow_rows(x), mx::transpose(dequantized_bf16(weights)));
}

}  // namespace

bool has_many_rows(std::span<const LinearWeight> weights) {
  return weights.size() <= cuda::kMostParts &&
         std::ranges::all_of(weights, [](const LinearWeight& w) {
           return w.quantized() && w.spec.mode == QuantMode::kAffine;
         });
}

mx::array dequantized_bf16(std::span<const LinearWeight> weights) {
  Arrays inputs;
  std::vector<WeightSlots> slots;
  int N = 0;
  for (LinearWeight w : weights) {
    w.bias.reset();
    slots.push_back(append_weight(w, inputs));
    N += w.output_dim();
  }
  return mx::array({N, weights[0].input_dim()}, mx::bfloat16,
                   std::make_shared<Dequantize>(std::move(slots)), std::move(inputs));
}

std::vector<mx::array> linear_many(const mx::array& x,
                                   std::span<const LinearWeight> weights,
                                   const std::optional<mx::array>& residual) {
  Arrays inputs{product(x, weights)};
  std::vector<bool> biased;
  std::vector<int> widths;
  std::vector<mx::Shape> shapes;
  for (const LinearWeight& w : weights) {
    biased.push_back(w.bias.has_value());
    if (w.bias) inputs.push_back(*w.bias);
    widths.push_back(w.output_dim());
    shapes.push_back({x.shape(0), w.output_dim()});
  }
  if (residual) inputs.push_back(*residual);
  const std::vector<mx::Dtype> types(shapes.size(), mx::float32);
  return mx::array::make_arrays(
      std::move(shapes), types,
      std::make_shared<WidenRows>(std::move(biased), std::move(widths),
                                  residual.has_value()),
      std::move(inputs));
}

mx::array glu_many(const mx::array& x, std::span<const LinearWeight> gate_and_up,
                   GluGate f) {
  const mx::array both = product(x, gate_and_up);
  return mx::astype(mx::array({x.shape(0), both.shape(1) / 2}, mx::bfloat16,
                              std::make_shared<GluHalves>(f), Arrays{both}),
                    mx::float32);
}

}  // namespace optiq::kernels
