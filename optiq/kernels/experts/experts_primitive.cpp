#include "optiq/kernels/experts/experts_primitive.h"

#include <fmt/format.h>

#include <array>
#include <span>
#include <stdexcept>

#include "mlx/ops.h"
#include "optiq/kernels/experts/experts.h"
#include "optiq/kernels/experts/route.h"
#include "optiq/kernels/glu/glu_primitive.h"
#include "optiq/kernels/linear/weight_primitive.h"
#ifdef OPTIQ_CUDA
#include "optiq/kernels/cuda_primitive.h"
#include "optiq/kernels/experts/experts_cuda.h"
#include "optiq/kernels/experts/sorted_experts_cuda.h"
#include "optiq/kernels/linear/many_rows_primitive.h"
#endif

namespace optiq::kernels {
namespace {

// Inputs: logits, the experts' scales where there are any. Outputs: ids, weights.
class RoutePrimitive : public FusedPrimitive {
 public:
  RoutePrimitive(Fallback fallback, int n_active, bool normalize)
      : FusedPrimitive(fused_stream(), "Route", std::move(fallback)),
        n_active_(n_active),
        normalize_(normalize) {}

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    for (mx::array& out : outputs) allocate(out);
    RouteArgs args = args_of(inputs);
    args.logits = contiguous(inputs[0]).data<float>();
    if (inputs.size() > 1) args.expert_scale = contiguous(inputs[1]).data<float>();
    args.ids = outputs[0].data<std::int32_t>();
    args.weights = outputs[1].data<float>();
    dispatch([args] { kernels::route(args); });
  }

#ifdef OPTIQ_CUDA
  void eval_gpu(const Arrays& inputs, Arrays& outputs) override {
    for (mx::array& out : outputs) allocate(out);
    CudaCall call(stream(), inputs, outputs);
    RouteArgs args = args_of(inputs);
    args.logits = call.values<float>(inputs[0]);
    if (inputs.size() > 1) args.expert_scale = call.values<float>(inputs[1]);
    args.ids = CudaCall::data<std::int32_t>(outputs[0]);
    args.weights = CudaCall::data<float>(outputs[1]);
    cuda::route(args, call.launcher());
  }
#endif

 private:
  RouteArgs args_of(const Arrays& inputs) const {
    RouteArgs args{};
    args.T = inputs[0].shape(0);
    args.n_experts = inputs[0].shape(1);
    args.n_active = n_active_;
    args.normalize = normalize_;
    return args;
  }

  int n_active_;
  bool normalize_;
};

// Inputs: x, ids, weights, the matrices' arrays, the residual where there is one.
class Experts : public FusedPrimitive {
 public:
  Experts(Fallback fallback, const WeightSlots& gate, const WeightSlots& up,
          const WeightSlots& down, int n_experts, GluGate f, Activation activation,
          bool has_residual)
      : FusedPrimitive(fused_stream(), "Experts", std::move(fallback)),
        gate_(gate),
        up_(up),
        down_(down),
        n_experts_(n_experts),
        f_(f),
        activation_(activation),
        has_residual_(has_residual) {}

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    ExpertsArgs args = args_of(
        inputs, [&](const mx::array& x) { return contiguous(x); }, host_address);
    if (has_residual_) {
      if (!donate(inputs.back(), outputs[0])) allocate(outputs[0]);
    } else {
      allocate(outputs[0]);
    }
    args.y = outputs[0].data<float>();
    dispatch([args] { kernels::experts(args); });
  }

#ifdef OPTIQ_CUDA
  void eval_gpu(const Arrays& inputs, Arrays& outputs) override {
    allocate(outputs[0]);
    CudaCall call(stream(), inputs, outputs);
    ExpertsArgs args = args_of(
        inputs, [&](const mx::array& x) { return call.in_rows(x); },
        [](const mx::array& x) {
          return static_cast<const void*>(CudaCall::data<char>(x));
        });
    args.y = CudaCall::data<float>(outputs[0]);
    cuda::experts(args, call.scratch(cuda::experts_scratch_bytes(args)),
                  call.launcher());
  }
#endif

 private:
  // All but where the result goes.
  template <class InRows>
  ExpertsArgs args_of(const Arrays& inputs, InRows&& in_rows, Address address) const {
    const auto values = [&](const mx::array& x) { return address(in_rows(x)); };
    ExpertsArgs args{};
    args.x = static_cast<const float*>(values(inputs[0]));
    args.ids = static_cast<const std::int32_t*>(values(inputs[1]));
    args.weights = static_cast<const float*>(values(inputs[2]));
    if (has_residual_) args.residual = static_cast<const float*>(values(inputs.back()));
    args.gate = view_of(inputs, gate_, in_rows, address);
    args.up = view_of(inputs, up_, in_rows, address);
    args.down = view_of(inputs, down_, in_rows, address);
    args.T = inputs[0].shape(0);
    args.n_active = inputs[1].shape(1);
    args.n_experts = n_experts_;
    args.f = f_;
    args.activation = activation_;
    return args;
  }

  WeightSlots gate_, up_, down_;
  int n_experts_;
  GluGate f_;
  Activation activation_;
  bool has_residual_;
};

#ifdef OPTIQ_CUDA
// What an affine matrix of these arrays would be for cuda::has_experts.
MatrixView form_of(const LinearWeight& w) {
  MatrixView view;
  view.spec = w.spec;
  if (!w.quantized()) return view;
  view.scales = &w;  // for quantized() alone
  if (w.biases) view.type = float_type_of(w.scales->dtype());
  return view;
}
#endif

// True where a kernel of ours takes the call: on a GPU of few rows.
bool has_kernel([[maybe_unused]] const Route& route,
                [[maybe_unused]] const ExpertWeights& w) {
  if (runs_on_cpu()) return true;
#ifdef OPTIQ_CUDA
  return route.ids.size() <= cuda::kMostPairs && w.n_experts <= cuda::kMostExperts &&
         cuda::has_experts(form_of(w.gate), form_of(w.up), form_of(w.down));
#else
  return false;
#endif
}

bool has_route_kernel([[maybe_unused]] const mx::array& logits) {
  if (runs_on_cpu()) return true;
#ifdef OPTIQ_CUDA
  return logits.shape(1) <= cuda::kMostExperts;
#else
  return false;
#endif
}

// x [T, A or 1, 1, K] by the matrices of the ids [T, A] -> [T, A, 1, N].
mx::array gathered_product(const mx::array& x, const Arrays& in, const WeightSlots& w,
                           const mx::array& ids, int n_experts) {
  const mx::array flat = plain_dequantized(in, w);

  const mx::array matrices =
      mx::reshape(flat, {n_experts, flat.shape(0) / n_experts, flat.shape(1)});
  return mx::gather_mm(x, mx::swapaxes(matrices, 1, 2), std::nullopt, ids);
}

#ifdef OPTIQ_CUDA
// Inputs: x, ids, weights, the matrices in bfloat16 (gates and ups, downs), the
// residual where there is one.
class SortedExperts : public FusedPrimitive {
 public:
  SortedExperts(Fallback fallback, int n_experts, GluGate f, bool has_residual)
      : FusedPrimitive(fused_stream(), "SortedExperts", std::move(fallback)),
        n_experts_(n_experts),
        f_(f),
        has_residual_(has_residual) {}

  void eval_cpu(const Arrays&, Arrays&) override {
    throw std::logic_error("sorted experts: expected a GPU");
  }

  void eval_gpu(const Arrays& inputs, Arrays& outputs) override {
    allocate(outputs[0]);
    CudaCall call(stream(), inputs, outputs);
    cuda::SortedExpertsArgs args{};
    args.x = call.values<float>(inputs[0]);
    args.ids = call.values<std::int32_t>(inputs[1]);
    args.weights = call.values<float>(inputs[2]);
    args.gate_and_up = call.values<std::uint16_t>(inputs[3]);
    args.down = call.values<std::uint16_t>(inputs[4]);
    if (has_residual_) args.residual = call.values<float>(inputs[5]);
    args.y = CudaCall::data<float>(outputs[0]);
    args.T = inputs[1].shape(0);
    args.n_active = inputs[1].shape(1);
    args.n_experts = n_experts_;
    args.K = inputs[3].shape(1);
    args.N = inputs[4].shape(1);
    args.f = f_;
    cuda::sorted_experts(args, call.scratch(cuda::sorted_experts_scratch_bytes(args)),
                         call.launcher());
  }

 private:
  int n_experts_;
  GluGate f_;
  bool has_residual_;
};

// True for what SortedExperts takes: many tokens, or matrices without a kernel for few.
bool has_sorted_kernel(const ExpertWeights& w, Activation activation) {
  return activation == Activation::kInt8 && w.n_experts <= cuda::kMostExperts &&
         w.gate.input_dim() % 8 == 0 && w.down.input_dim() % 8 == 0;
}

// Matrices one below the other.
mx::array in_bf16(std::span<const LinearWeight> matrices) {
  if (has_many_rows(matrices)) return dequantized_bf16(matrices);
  Arrays all;
  for (const LinearWeight& matrix : matrices) {
    Arrays in;
    const WeightSlots slots = append_weight(matrix, in);
    all.push_back(plain_dequantized(in, slots, mx::bfloat16));
  }
  return mx::concatenate(all, 0);
}

mx::array sorted_experts(const mx::array& x, const Route& route, const ExpertWeights& w,
                         GluGate f, const std::optional<mx::array>& residual) {
  const int E = w.n_experts;
  Arrays inputs{x, route.ids, route.weights, in_bf16(std::array{w.gate, w.up}),
                in_bf16({&w.down, 1})};
  if (residual) inputs.push_back(*residual);
  Fallback fallback = [=, added = residual.has_value()](const Arrays& in) -> Arrays {
    const int N = in[4].shape(1), K = in[3].shape(1);
    const mx::array rows = mx::reshape(in[0], {in[0].shape(0), 1, 1, K});
    const mx::array ids = mx::stop_gradient(in[1]);
    const auto product = [&](const mx::array& a, const mx::array& matrices) {
      return mx::gather_mm(a, mx::swapaxes(mx::astype(matrices, mx::float32), 1, 2),
                           std::nullopt, ids);
    };
    const mx::array both = mx::reshape(in[3], {2, E, N, K});
    const auto half = [&](int i) {
      return mx::squeeze(mx::slice(both, {i, 0, 0, 0}, {i + 1, E, N, K}), 0);
    };
    const mx::array h = plain_gate(product(rows, half(0)), f) * product(rows, half(1));
    const mx::array z = mx::squeeze(product(h, mx::reshape(in[4], {E, K, N})), 2);
    const mx::array y = mx::sum(z * mx::expand_dims(in[2], -1), 1);
    return {added ? y + in.back() : y};
  };
  return mx::array(
      x.shape(), mx::float32,
      std::make_shared<SortedExperts>(std::move(fallback), E, f, residual.has_value()),
      std::move(inputs));
}
#endif

void check(const mx::array& x, const Route& route, const ExpertWeights& w) {
  const int E = w.n_experts, K = w.gate.input_dim(), N = w.down.input_dim();
  if (x.ndim() != 2 || x.shape(1) != K || w.up.input_dim() != K || E < 1 ||
      w.gate.output_dim() != E * N || w.up.output_dim() != E * N ||
      w.down.output_dim() != E * K || route.ids.shape() != route.weights.shape() ||
      route.ids.ndim() != 2 || route.ids.shape(0) != x.shape(0))
    throw std::invalid_argument(
        fmt::format("[experts] expected x [T, {}], gate and up [{}, {}], down [{}, {}]",
                    K, E * N, K, E * K, N));
}

}  // namespace

Route route(const mx::array& logits, const RouteOptions& options) {
  if (logits.ndim() != 2 || options.n_active < 1 || options.n_active > logits.shape(1))
    throw std::invalid_argument("[route] expected logits [T, E] and at most E experts");
  Arrays inputs{logits};
  if (options.expert_scale) inputs.push_back(*options.expert_scale);
  Fallback fallback = [n = options.n_active,
                       normalize = options.normalize](const Arrays& in) -> Arrays {
    const mx::array p = mx::softmax(in[0], std::vector<int>{-1}, true);
    const mx::array order = mx::argsort(mx::negative(p), -1);
    // The cast comes last: mx::vjp gives outputs that are stopped no cotangent, and the
    // weights would get that of the ids.
    const mx::array ids = mx::astype(
        mx::stop_gradient(mx::slice(order, {0, 0}, {p.shape(0), n})), mx::int32);
    mx::array weights = mx::take_along_axis(p, ids, -1);
    if (normalize) weights = weights / mx::sum(weights, -1, true);
    if (in.size() > 1) weights = weights * mx::take(in[1], ids);
    return {ids, weights};
  };
  if (!has_route_kernel(logits)) {
    const Arrays both = fallback(inputs);
    return {both[0], both[1]};
  }
  const mx::Shape shape{logits.shape(0), options.n_active};
  const Arrays both = mx::array::make_arrays(
      {shape, shape}, {mx::int32, mx::float32},
      std::make_shared<RoutePrimitive>(std::move(fallback), options.n_active,
                                       options.normalize),
      inputs);
  return {both[0], both[1]};
}

mx::array experts(const mx::array& x, const Route& route, const ExpertWeights& weights,
                  GluGate f, Activation activation,
                  const std::optional<mx::array>& residual) {
  check(x, route, weights);
  Arrays inputs{x, route.ids, route.weights};
  const WeightSlots gate = append_weight(weights.gate, inputs),
                    up = append_weight(weights.up, inputs),
                    down = append_weight(weights.down, inputs);
  if (residual) inputs.push_back(*residual);
  Fallback fallback = [=, E = weights.n_experts,
                       added = residual.has_value()](const Arrays& in) -> Arrays {
    const mx::array rows = mx::reshape(in[0], {in[0].shape(0), 1, 1, in[0].shape(1)});
    const mx::array ids = mx::stop_gradient(in[1]);
    const mx::array h = plain_gate(gathered_product(rows, in, gate, ids, E), f) *
                        gathered_product(rows, in, up, ids, E);
    const mx::array z = mx::squeeze(gathered_product(h, in, down, ids, E), 2);
    const mx::array y = mx::sum(z * mx::expand_dims(in[2], -1), 1);
    return {added ? y + in.back() : y};
  };
  if (!has_kernel(route, weights)) {
#ifdef OPTIQ_CUDA
    if (has_sorted_kernel(weights, activation))
      return sorted_experts(x, route, weights, f, residual);
#endif
    return fallback(inputs)[0];
  }
  return mx::array(
      x.shape(), mx::float32,
      std::make_shared<Experts>(std::move(fallback), gate, up, down, weights.n_experts,
                                f, activation, residual.has_value()),
      inputs);
}

}  // namespace optiq::kernels
