#include "optiq/kernels/rope/rope_primitive.h"

#include <fmt/format.h>

#include <stdexcept>
#include <string>

#include "mlx/fast.h"
#include "mlx/ops.h"
#include "optiq/kernels/rope/rope_inputs.h"
#ifdef OPTIQ_CUDA
#include "optiq/kernels/cuda_primitive.h"
#include "optiq/kernels/rope/rope_cuda.h"
#endif

namespace optiq::kernels {
namespace {

class Rope : public FusedPrimitive {
 public:
  Rope(Fallback fallback, RopeSettings settings)
      : FusedPrimitive(fused_stream(), "Rope", std::move(fallback)),
        settings_(settings) {}

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    const auto values = [&]<class T>(const mx::array& x, const T*) {
      return static_cast<const T*>(contiguous(x).template data<T>());
    };
    RopeArgs args =
        rope_args(settings_, std::span(inputs).subspan(2), inputs[0], values);
    args.q = heads(inputs[0], outputs[0], args.q.norm);
    args.k = heads(inputs[1], outputs[1], args.k.norm);
    dispatch([args] { rope(args); });
  }

#ifdef OPTIQ_CUDA
  void eval_gpu(const Arrays& inputs, Arrays& outputs) override {
    CudaCall call(stream(), inputs, outputs);
    for (mx::array& out : outputs) allocate(out);
    const auto values = [&]<class T>(const mx::array& x, const T*) {
      return call.values<T>(x);
    };
    const auto heads = [&](const mx::array& x, mx::array& y,
                           const float* norm) -> RopeHeads {
      const mx::array from = x.strides(2) == 1 ? x : call.in_rows(x);
      return {CudaCall::data<float>(from), from.strides(0), from.strides(1), norm,
              CudaCall::data<float>(y),    from.shape(1)};
    };
    RopeArgs args =
        rope_args(settings_, std::span(inputs).subspan(2), inputs[0], values);
    args.q = heads(inputs[0], outputs[0], args.q.norm);
    args.k = heads(inputs[1], outputs[1], args.k.norm);
    cuda::rope(args, call.launcher());
  }
#endif

  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override {
    return {inputs[0].shape(), inputs[1].shape()};
  }

  const RopeSettings& settings() const { return settings_; }

 private:
  RopeHeads heads(const mx::array& x, mx::array& y, const float* norm) {
    allocate(y);
    const bool rows = x.shape(2) == 1 || x.strides(2) == 1;
    const mx::array from = rows ? x : contiguous(x);
    return {from.data<float>(), from.strides(0), from.strides(1), norm,
            y.data<float>(),    from.shape(1)};
  }

  RopeSettings settings_;
};

[[noreturn]] void refuse(const std::string& what) {
  throw std::invalid_argument("rope: " + what);
}

void check(const mx::array& q, const mx::array& k, const mx::array& positions,
           const mx::array& inverse_frequency, const RopeOptions& options) {
  if (q.ndim() != 3 || k.ndim() != 3 || q.shape(0) != k.shape(0) ||
      q.shape(2) != k.shape(2))
    refuse("expected q [T, n_heads, D] and k [T, n_kv_heads, D]");
  if (q.dtype() != mx::float32 || k.dtype() != mx::float32 ||
      inverse_frequency.dtype() != mx::float32)
    refuse("expected float32 for q, k and inverse_frequency");
  if (positions.ndim() != 1 || positions.shape(0) != q.shape(0))
    refuse(
        fmt::format("expected {} positions, found {}", q.shape(0), positions.size()));
  if (inverse_frequency.ndim() != 1 || 2 * inverse_frequency.shape(0) > q.shape(2) ||
      inverse_frequency.shape(0) > kMaxFrequencies)
    refuse(fmt::format("{} frequencies do not fit a head_dim of {}",
                       inverse_frequency.size(), q.shape(2)));
  if (options.long_inverse_frequency &&
      options.long_inverse_frequency->shape() != inverse_frequency.shape())
    refuse("expected as many frequencies for long sequences as for short ones");
  if (options.long_rows && options.long_rows->shape() != positions.shape())
    refuse(fmt::format("expected {} entries of long_rows, found {}", positions.size(),
                       options.long_rows->size()));
  for (const auto& norm : {options.q_norm, options.k_norm})
    if (norm && (norm->ndim() != 1 || norm->shape(0) != q.shape(2)))
      refuse(fmt::format("expected norm weights of {} values, found {}", q.shape(2),
                         norm->size()));
}

}  // namespace

Arrays plain_rope(const Arrays& in, const RopeSettings& settings) {
  const int f = in[3].shape(0), dim = in[0].shape(2);
  mx::array frequencies = in[3];
  if (settings.has_long)
    frequencies = mx::where(mx::expand_dims(in.back(), {1, 2}) != mx::array(0),
                            in[in.size() - 2], in[3]);
  const mx::array angle = mx::expand_dims(mx::astype(in[2], mx::float32), {1, 2}) *
                          frequencies;  // [T, 1, F]
  const mx::array cosine = mx::cos(angle) * settings.scale;
  const mx::array sine = mx::sin(angle) * settings.scale;
  const auto rotate = [&](const mx::array& x) {
    const mx::Shape& s = x.shape();
    const mx::array low = mx::slice(x, {0, 0, 0}, {s[0], s[1], f});
    const mx::array high = mx::slice(x, {0, 0, f}, {s[0], s[1], 2 * f});
    const mx::array rest = mx::slice(x, {0, 0, 2 * f}, {s[0], s[1], dim});
    return mx::concatenate(
        {low * cosine - high * sine, high * cosine + low * sine, rest}, -1);
  };
  std::size_t next = 4;
  mx::array q = in[0], k = in[1];
  if (settings.q_norm) q = mx::fast::rms_norm(q, in[next++], settings.eps);
  if (settings.k_norm) k = mx::fast::rms_norm(k, in[next], settings.eps);
  return {rotate(q), rotate(k)};
}

std::optional<TurnedHeads> turned_heads(const mx::array& q, const mx::array& k) {
  for (const mx::array* x : {&q, &k})
    if (!x->has_primitive() || x->status() != mx::array::Status::unscheduled)
      return std::nullopt;
  const auto* rope = dynamic_cast<const Rope*>(&q.primitive());
  if (!rope || &k.primitive() != rope || q.inputs()[0].shape() != q.shape() ||
      q.inputs()[1].shape() != k.shape())
    return std::nullopt;
  return TurnedHeads{rope->settings(), q.inputs()};
}

std::pair<mx::array, mx::array> rope(const mx::array& q, const mx::array& k,
                                     const mx::array& positions,
                                     const mx::array& inverse_frequency,
                                     const RopeOptions& options) {
  check(q, k, positions, inverse_frequency, options);
  Arrays inputs{q, k, mx::astype(positions, mx::int32), inverse_frequency};
  if (options.q_norm) inputs.push_back(mx::astype(*options.q_norm, mx::float32));
  if (options.k_norm) inputs.push_back(mx::astype(*options.k_norm, mx::float32));
  const bool has_long = options.long_inverse_frequency && options.long_rows;
  if (has_long) {
    inputs.push_back(*options.long_inverse_frequency);
    inputs.push_back(mx::astype(*options.long_rows, mx::int32));
  }
  const RopeSettings settings{options.eps, options.scale, options.q_norm.has_value(),
                              options.k_norm.has_value(), has_long};
  Fallback fallback = [settings](const Arrays& in) { return plain_rope(in, settings); };
  const Arrays y = runs_kernels()
                       ? mx::array::make_arrays(
                             {q.shape(), k.shape()}, {mx::float32, mx::float32},
                             std::make_shared<Rope>(std::move(fallback), settings),
                             std::move(inputs))
                       : fallback(inputs);
  return {y[0], y[1]};
}

}  // namespace optiq::kernels
