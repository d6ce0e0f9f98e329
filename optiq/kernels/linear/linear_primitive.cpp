#include "optiq/kernels/linear/linear_primitive.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <span>
#include <stdexcept>

#include "mlx/fast.h"
#include "mlx/ops.h"

#include "mlx/transforms.h"
#include "optiq/base/error.h"
#include "optiq/kernels/embedding/embedding_primitive.h"
#include "optiq/kernels/glu/glu_primitive.h"
#include "optiq/kernels/linear/linear.h"
#include "optiq/kernels/linear/weight_primitive.h"
#include "optiq/kernels/linear_backward/linear_backward.h"
#include "optiq/kernels/rms_norm/rms_norm_primitive.h"

#ifdef OPTIQ_CUDA
#include "optiq/kernels/cuda_primitive.h"
#include "optiq/kernels/linear/linear_cuda.h"
#include "optiq/kernels/linear/many_rows_primitive.h"
#endif

namespace optiq::kernels {
namespace {

// Inputs: x, the weights' arrays, the norm's weight where x is to be normed first, a
// residual where there is one.
class LinearBase : public FusedPrimitive {
 public:
  LinearBase(const char* name, Fallback fallback, std::vector<WeightSlots> weights,
             Activation activation, std::optional<float> norm_eps = std::nullopt)
      : FusedPrimitive(fused_stream(), name, std::move(fallback)),
        weights_(std::move(weights)),
        activation_(activation),
        norm_eps_(norm_eps) {}

 protected:
  // The products of evaluated inputs, their destinations left open.
  std::vector<Product> products(const Arrays& inputs) {
    return products(
        inputs, [&](const mx::array& x) { return contiguous(x); }, host_address);
  }

  template <class InRows>
  std::vector<Product> products(const Arrays& inputs, InRows&& in_rows,
                                Address address) {
    std::vector<Product> all;
    for (const WeightSlots& w : weights_) {
      Product product;
      product.w = view_of(inputs, w, in_rows, address);
      if (w.bias >= 0) {
        const mx::array bias = in_rows(inputs[static_cast<std::size_t>(w.bias)]);
        product.bias = address(bias);
        product.bias_type = float_type_of(bias.dtype());
      }
      all.push_back(product);
    }
    return all;
  }

  // The product whose affine scales or biases this input is; -1: none's.
  int product_scaled_by(int argnum) const {
    for (std::size_t i = 0; i < weights_.size(); ++i)
      if (weights_[i].spec.mode == QuantMode::kAffine && weights_[i].quantized() &&
          (weights_[i].scales == argnum || weights_[i].biases == argnum))
        return static_cast<int>(i);
    return -1;
  }

  std::size_t arrays_of_weights() const {
    std::size_t n = 0;
    for (const WeightSlots& w : weights_)
      n += 1 + std::size_t{w.scales >= 0} + std::size_t{w.biases >= 0} +
           std::size_t{w.bias >= 0};
    return n;
  }

  bool has_residual(const Arrays& inputs) const {
    return inputs.size() > 1 + arrays_of_weights() + std::size_t{norm_eps_.has_value()};
  }

#ifdef OPTIQ_CUDA
  cuda::InputRowsView rows_of(const Arrays& inputs, CudaCall& call) const {
    cuda::InputRowsView rows{call.values<float>(inputs[0]), inputs[0].shape(0),
                             inputs[0].shape(1)};
    if (norm_eps_) {
      rows.norm_weight = call.values<float>(inputs[1 + arrays_of_weights()]);
      rows.norm_eps = *norm_eps_;
    }
    return rows;
  }

  std::vector<Product> products(const Arrays& inputs, CudaCall& call) {
    return products(
        inputs, [&](const mx::array& x) { return call.in_rows(x); },
        [](const mx::array& w) {
          return static_cast<const void*>(CudaCall::data<char>(w));
        });
  }

  void* scratch_of(const cuda::InputRowsView& rows, std::span<const Product> products,
                   bool glu, CudaCall& call) const {
    return call.scratch(cuda::scratch_bytes(rows, products, glu, activation_));
  }
#endif

  std::vector<WeightSlots> weights_;
  Activation activation_;
  std::optional<float> norm_eps_;
};

// Inputs: the gradient by the first product in the place of x, the weights' arrays, the
// gradients by the other products. Output: the gradient by x.
class LinearBackward : public LinearBase {
 public:
  using LinearBase::LinearBase;

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    const std::vector<Product> all = products(inputs);
    std::vector<BackwardProduct> backward;
    for (std::size_t i = 0; i < all.size(); ++i) {
      const std::size_t at = i == 0 ? 0 : inputs.size() - all.size() + i;
      backward.push_back({all[i].w, contiguous(inputs[at]).data<float>()});
    }
    allocate(outputs[0]);
    dispatch([backward, M = outputs[0].shape(0), K = outputs[0].shape(1),
              dx = outputs[0].data<float>()] {
      linear_backward(backward.data(), static_cast<int>(backward.size()), M, K, dx);
    });
  }
};

// The gradients of y = x W^T by the scales and the biases of W = scale code + bias:
// with dW = dy^T x, sums of dW code and of dW over a group.
Arrays scale_gradients(const mx::array& x, const mx::array& dy, const mx::array& codes,
                       const mx::array& scales, const QuantSpec& spec) {
  const mx::array dw = mx::matmul(mx::transpose(dy), x);
  const mx::array values = dequantized(
      {codes, mx::ones(scales.shape()), mx::zeros(scales.shape()), std::nullopt, spec});
  const mx::Shape groups{scales.shape(0), scales.shape(1), spec.group_size};
  const auto by_group = [&](const mx::array& a) {
    return mx::astype(mx::sum(mx::reshape(a, groups), -1), scales.dtype());
  };
  return {by_group(dw * values), by_group(dw)};
}

constexpr int kMostCudaRows =
    64;  // beyond, a product with dequantized weights is faster

// True where a kernel of ours takes the products. On a GPU, those of few rows with
// quantized weights; more rows, and dense weights, are cuBLAS's.
bool has_kernel(const mx::array& x, std::span<const WeightSlots> weights) {
  if (runs_on_cpu()) return true;
#ifdef OPTIQ_CUDA
  return x.shape(0) <= kMostCudaRows &&
         std::ranges::all_of(weights, &WeightSlots::quantized);
#else
  return false;
#endif
}

#ifdef OPTIQ_CUDA
// True where products go through bfloat16, as those of many rows on a GPU do.
bool goes_through_bf16(const mx::array& x, std::span<const LinearWeight> weights,
                       Activation activation) {
  return !runs_on_cpu() && x.shape(0) > kMostCudaRows &&
         activation == Activation::kInt8 && has_many_rows(weights);
}
#endif

// True where one kernel takes both products of a gated MLP, which has_kernel.
bool has_glu_kernel([[maybe_unused]] std::span<const LinearWeight, 2> both) {
  if (runs_on_cpu()) return true;
#ifdef OPTIQ_CUDA
  return both[0].spec == both[1].spec && cuda::joins_norm_and_gate(both[0].spec) &&
         both[0].scales->dtype() == both[1].scales->dtype();
#else
  return false;
#endif
}

class Linear : public LinearBase {
 public:
  using LinearBase::LinearBase;

  // By the input, the residual, and scales and biases of affine codes; the codes are
  // constants.
  Arrays vjp(const Arrays& primals, const Arrays& cotangents,
             const std::vector<int>& argnums, const Arrays& outputs) override {
    const int residual =
        has_residual(primals) ? static_cast<int>(primals.size()) - 1 : 0;
    bool by_kernel = runs_on_cpu();
    for (const int argnum : argnums)
      by_kernel = by_kernel &&
                  (argnum == 0 || argnum == residual || product_scaled_by(argnum) >= 0);
    if (!by_kernel) return FusedPrimitive::vjp(primals, cotangents, argnums, outputs);
    std::vector<std::optional<Arrays>> by_scales(weights_.size());
    Arrays gradients;
    for (const int argnum : argnums) {
      if (argnum == 0) {
        gradients.push_back(input_gradient(primals, cotangents));
        continue;
      }
      const int product = product_scaled_by(argnum);
      if (product < 0) {
        gradients.push_back(cotangents[0]);
        continue;
      }
      const auto at = static_cast<std::size_t>(product);
      const WeightSlots& w = weights_[at];
      if (!by_scales[at])
        by_scales[at] = scale_gradients(
            primals[0], cotangents[at], primals[static_cast<std::size_t>(w.weight)],
            primals[static_cast<std::size_t>(w.scales)], w.spec);
      gradients.push_back((*by_scales[at])[argnum == w.scales ? 0 : 1]);
    }
    return gradients;
  }

  mx::array input_gradient(const Arrays& primals, const Arrays& cotangents) const {
    const auto weights_end =
        primals.begin() + 1 + static_cast<std::ptrdiff_t>(arrays_of_weights());
    Arrays inputs{cotangents[0]};
    inputs.insert(inputs.end(), primals.begin() + 1, weights_end);
    inputs.insert(inputs.end(), cotangents.begin() + 1, cotangents.end());
    return mx::array(primals[0].shape(), mx::float32,
                     std::make_shared<LinearBackward>("LinearBackward", fallback(),
                                                      weights_, activation_),
                     std::move(inputs));
  }

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    const mx::array x = contiguous(inputs[0]);
    std::vector<Product> all = products(inputs);
    if (has_residual(inputs)) {
      const mx::array residual = contiguous(inputs.back());
      all[0].residual = residual.data<float>();
      if (!donate(inputs.back(), outputs[0])) allocate(outputs[0]);
    } else {
      for (mx::array& out : outputs) allocate(out);
    }
    for (std::size_t i = 0; i < all.size(); ++i) all[i].y = outputs[i].data<float>();
    dispatch([x = x.data<float>(), M = x.shape(0), K = x.shape(1), all,
              activation = activation_] {
      linear(x, M, K, all.data(), static_cast<int>(all.size()), activation);
    });
  }

#ifdef OPTIQ_CUDA
  void eval_gpu(const Arrays& inputs, Arrays& outputs) override {
    for (mx::array& out : outputs) allocate(out);
    CudaCall call(stream(), inputs, outputs);
    const cuda::InputRowsView rows = rows_of(inputs, call);
    std::vector<Product> all = products(inputs, call);
    if (has_residual(inputs)) all[0].residual = call.values<float>(inputs.back());
    for (std::size_t i = 0; i < all.size(); ++i)
      all[i].y = CudaCall::data<float>(outputs[i]);
    cuda::linear(rows, all, activation_, scratch_of(rows, all, false, call),
                 call.launcher());
  }
#endif
};

class Glu : public LinearBase {
 public:
  Glu(Fallback fallback, std::vector<WeightSlots> weights, Activation activation,
      GluGate f, std::optional<float> norm_eps)
      : LinearBase("Glu", std::move(fallback), std::move(weights), activation,
                   norm_eps),
        f_(f) {}

  // The two products are made once more.
  Arrays vjp(const Arrays& primals, const Arrays& cotangents,
             const std::vector<int>& argnums, const Arrays& outputs) override {
    bool by_kernel = runs_on_cpu();
    for (const int argnum : argnums)
      by_kernel = by_kernel && (argnum == 0 || product_scaled_by(argnum) >= 0);
    if (!by_kernel) return FusedPrimitive::vjp(primals, cotangents, argnums, outputs);
    const auto both =
        std::make_shared<Linear>("LinearGroup", fallback(), weights_, activation_);
    const mx::Shape shape = cotangents[0].shape();
    const Arrays halves = mx::array::make_arrays(
        {shape, shape}, {mx::float32, mx::float32}, both, primals);
    return both->vjp(primals,
                     glu_product_gradients(halves[0], halves[1], cotangents[0], f_),
                     argnums, halves);
  }

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    const mx::array x = contiguous(inputs[0]);
    const std::vector<Product> all = products(inputs);
    allocate(outputs[0]);
    dispatch([x = x.data<float>(), M = x.shape(0), K = x.shape(1), gate = all[0],
              up = all[1], y = outputs[0].data<float>(), activation = activation_,
              f = f_] { glu(f, x, M, K, gate, up, y, activation); });
  }

#ifdef OPTIQ_CUDA
  void eval_gpu(const Arrays& inputs, Arrays& outputs) override {
    allocate(outputs[0]);
    CudaCall call(stream(), inputs, outputs);
    const cuda::InputRowsView rows = rows_of(inputs, call);
    const std::vector<Product> all = products(inputs, call);
    cuda::glu(f_, rows, all[0], all[1], CudaCall::data<float>(outputs[0]), activation_,
              scratch_of(rows, all, true, call), call.launcher());
  }
#endif

 private:
  GluGate f_;
};

void check_input(const mx::array& x, const LinearWeight& w) {
  if (x.ndim() != 2 || x.shape(1) != w.input_dim())
    throw std::invalid_argument(fmt::format(
        "[linear] expected x of shape [T, {}], found {} dimensions, the last of {}",
        w.input_dim(), x.ndim(), x.ndim() ? x.shape(-1) : 0));
}

// x W^T. On the CPU through the dequantized weight, so that OpenBLAS does the product;
// with CUDA too, where MLX's own product would be compiled for each shape, and in half
// precision unless activations are to stay exact.
mx::array fallback_product(const mx::array& x, const Arrays& in, const WeightSlots& w,
                           Activation activation) {
  const auto at = [&](int slot) { return in[static_cast<std::size_t>(slot)]; };
  if (runs_on_cpu()) {
    LinearWeight weight{at(w.weight), std::nullopt, std::nullopt, std::nullopt, w.spec};
    if (w.scales >= 0) weight.scales = at(w.scales);
    if (w.biases >= 0) weight.biases = at(w.biases);
    return mx::matmul(x, mx::transpose(dequantized(weight)));
  }
#ifdef OPTIQ_CUDA
  const mx::Dtype type = activation == Activation::kInt8 ? mx::bfloat16 : mx::float32;
  return mx::astype(
      mx::matmul(mx::astype(x, type), mx::transpose(plain_dequantized(in, w, type))),
      mx::float32);
#else
  return plain_linear(x, in, w);
#endif
}

mx::array fallback_linear(const mx::array& x, const Arrays& in, const WeightSlots& w,
                          Activation activation) {
  const mx::array y = fallback_product(x, in, w, activation);
  if (w.bias < 0) return y;
  return y + mx::astype(in[static_cast<std::size_t>(w.bias)], mx::float32);
}

mx::array as_float(const mx::array& x) {
  return x.dtype() == mx::float32 ? x : mx::astype(x, mx::float32);
}

// The input of products as their kernel takes it: itself or, where a kernel on the
// device may norm it, what it is the norm of.
struct JoinedInput {
  mx::array x;
  std::optional<NormOf> norm;

  JoinedInput(const mx::array& input, std::span<const LinearWeight> weights)
      : x(as_float(input)) {
#ifdef OPTIQ_CUDA
    if (runs_on_cpu() || x.shape(0) > kMostCudaRows ||
        !std::ranges::all_of(weights, [](const LinearWeight& w) {
          return w.scales && cuda::joins_norm_and_gate(w.spec);
        }))
      return;
    norm = norm_of(x);
    if (norm) x = norm->x;
#endif
  }

  std::optional<float> eps() const {
    return norm ? std::optional(norm->eps) : std::nullopt;
  }
  void append_norm(Arrays& inputs) const {
    if (norm) inputs.push_back(norm->weight);
  }
};

// The fallback of products whose norm weight, if there is one, stands at `slot`.
Fallback normed_first(std::optional<float> eps, std::size_t slot, Fallback products) {
  if (!eps) return products;
  return [eps = *eps, slot, products = std::move(products)](const Arrays& in) {
    Arrays normed = in;
    normed[0] = mx::fast::rms_norm(in[0], in[slot], eps);
    return products(normed);
  };
}

}  // namespace

mx::array linear(const mx::array& x, const LinearWeight& w,
                 const LinearOptions& options) {
  check_input(x, w);
#ifdef OPTIQ_CUDA
  if (goes_through_bf16(x, {&w, 1}, options.activation))
    return linear_many(as_float(x), {&w, 1}, options.residual)[0];
#endif
  const JoinedInput joined(x, {&w, 1});
  Arrays inputs{joined.x};
  const std::vector<WeightSlots> slots{append_weight(w, inputs)};
  const std::size_t norm_slot = inputs.size();
  joined.append_norm(inputs);
  const mx::Shape shape{x.shape(0), w.output_dim()};
  if (options.residual) {
    if (options.residual->shape() != shape)
      throw std::invalid_argument(fmt::format(
          "[linear] expected a residual of shape [{}, {}]", shape[0], shape[1]));
    inputs.push_back(as_float(*options.residual));
  }
  Fallback fallback = normed_first(
      joined.eps(), norm_slot,
      [slots, residual = options.residual.has_value(),
       activation = options.activation](const Arrays& in) -> Arrays {
        const mx::array y = fallback_linear(in[0], in, slots[0], activation);
        return {residual ? y + in.back() : y};
      });
  if (!has_kernel(x, slots)) return fallback(inputs)[0];
  return mx::array(shape, mx::float32,
                   std::make_shared<Linear>("Linear", std::move(fallback), slots,
                                            options.activation, joined.eps()),
                   inputs);
}

std::vector<mx::array> linear_group(const mx::array& x,
                                    std::span<const LinearWeight> weights,
                                    Activation activation) {
#ifdef OPTIQ_CUDA
  if (goes_through_bf16(x, weights, activation))
    return linear_many(as_float(x), weights, std::nullopt);
#endif
  const JoinedInput joined(x, weights);
  Arrays inputs{joined.x};
  std::vector<WeightSlots> slots;
  std::vector<mx::Shape> shapes;
  for (const LinearWeight& w : weights) {
    check_input(x, w);
    slots.push_back(append_weight(w, inputs));
    shapes.push_back({x.shape(0), w.output_dim()});
  }
  Fallback fallback = normed_first(
      joined.eps(), inputs.size(), [slots, activation](const Arrays& in) -> Arrays {
        Arrays all;
        for (const WeightSlots& w : slots)
          all.push_back(fallback_linear(in[0], in, w, activation));
        return all;
      });
  joined.append_norm(inputs);
  if (!has_kernel(x, slots)) return fallback(inputs);
  return mx::array::make_arrays(
      shapes, std::vector<mx::Dtype>(shapes.size(), mx::float32),
      std::make_shared<Linear>("LinearGroup", std::move(fallback), slots, activation,
                               joined.eps()),
      inputs);
}

mx::array glu(const mx::array& x, const LinearWeight& gate, const LinearWeight& up,
              GluGate f, Activation activation) {
  check_input(x, gate);
  check_input(x, up);
  if (gate.output_dim() != up.output_dim())
    throw std::invalid_argument(
        fmt::format("[glu] expected gate and up of equal rows, found {} and {}",
                    gate.output_dim(), up.output_dim()));
  const std::array both{gate, up};
#ifdef OPTIQ_CUDA
  if (!gate.bias && !up.bias && goes_through_bf16(x, both, activation))
    return glu_many(as_float(x), both, f);
#endif
  const JoinedInput joined(x, both);
  Arrays inputs{joined.x};
  const WeightSlots g = append_weight(gate, inputs), u = append_weight(up, inputs);
  Fallback fallback = normed_first(
      joined.eps(), inputs.size(), [g, u, f, activation](const Arrays& in) -> Arrays {
        return {plain_gate(fallback_linear(in[0], in, g, activation), f) *
                fallback_linear(in[0], in, u, activation)};
      });
  joined.append_norm(inputs);
  if (!has_kernel(x, std::array{g, u})) return fallback(inputs)[0];
  if (!has_glu_kernel(both)) {
    const Arrays halves = linear_group(x, both, activation);
    return glu_product(halves[0], halves[1], f);
  }
  return mx::array(
      {x.shape(0), gate.output_dim()}, mx::float32,
      std::make_shared<Glu>(std::move(fallback), std::vector<WeightSlots>{g, u},
                            activation, f, joined.eps()),
      inputs);
}

}  // namespace optiq::kernels
