#include "optiq/kernels/linear/weight_primitive.h"

#include <fmt/format.h>

#include <stdexcept>

#include "mlx/ops.h"

namespace optiq::kernels {
namespace {

std::string shape_text(const mx::array& a) {
  std::string text;
  for (int d : a.shape()) text += (text.empty() ? "" : ", ") + std::to_string(d);
  return "[" + text + "]";
}

void require_shape(const mx::array& a, const char* what, int rows, int columns,
                   const QuantSpec& spec) {
  if (a.ndim() == 2 && a.shape(0) == rows && a.shape(1) == columns) return;
  throw std::invalid_argument(
      fmt::format("[linear] expected {} of shape [{}, {}] for {}, found {}", what, rows,
                  columns, describe(spec), shape_text(a)));
}

void check_quantized(const LinearWeight& w) {
  if (!is_supported(w.spec))
    throw std::invalid_argument("[linear] no such weight format: " + describe(w.spec));
  if (w.weight.dtype() != mx::uint32)
    throw std::invalid_argument("[linear] expected packed codes as uint32");
  const int K = w.input_dim(), groups = K / w.spec.group_size;
  if (K % w.spec.group_size != 0)
    throw std::invalid_argument(
        fmt::format("[linear] expected whole groups, found rows of {} for {}", K,
                    describe(w.spec)));
  require_shape(*w.scales, "scales", w.output_dim(), groups, w.spec);
  if (w.biases.has_value() != info(w.spec.mode).has_biases)
    throw std::invalid_argument(fmt::format(
        "[linear] {} has {} biases", describe(w.spec), w.biases ? "no" : "group"));
  if (w.biases) {
    require_shape(*w.biases, "biases", w.output_dim(), groups, w.spec);
    if (w.biases->dtype() != w.scales->dtype())
      throw std::invalid_argument("[linear] scales and biases differ in type");
    float_type_of(w.scales->dtype());
  } else if (w.scales->dtype() != mx::uint8) {
    throw std::invalid_argument("[linear] expected scales as uint8 for " +
                                describe(w.spec));
  }
}

const mx::array* slot(const Arrays& inputs, int index) {
  return index < 0 ? nullptr : &inputs[static_cast<std::size_t>(index)];
}

}  // namespace

FloatType float_type_of(mx::Dtype type) {
  if (type == mx::float32) return FloatType::kF32;
  if (type == mx::float16) return FloatType::kF16;
  if (type == mx::bfloat16) return FloatType::kBF16;
  throw std::invalid_argument("[linear] expected float32, float16 or bfloat16");
}

WeightSlots append_weight(const LinearWeight& w, Arrays& inputs) {
  if (w.weight.ndim() != 2)
    throw std::invalid_argument("[linear] expected a weight [N, K], found " +
                                shape_text(w.weight));
  if (w.quantized())
    check_quantized(w);
  else
    float_type_of(w.weight.dtype());
  WeightSlots slots;
  slots.spec = w.spec;
  const auto append = [&](const mx::array& a) {
    inputs.push_back(a);
    return static_cast<int>(inputs.size()) - 1;
  };
  slots.weight = append(w.weight);
  if (w.scales) slots.scales = append(*w.scales);
  if (w.biases) slots.biases = append(*w.biases);
  if (w.bias) {
    if (w.bias->ndim() != 1 || w.bias->shape(0) != w.output_dim())
      throw std::invalid_argument(fmt::format("[linear] expected a bias [{}], found {}",
                                              w.output_dim(), shape_text(*w.bias)));
    float_type_of(w.bias->dtype());
    slots.bias = append(*w.bias);
  }
  return slots;
}

const void* host_address(const mx::array& x) { return x.data<char>(); }

MatrixView view_of(const mx::array& weight, const mx::array* scales,
                   const mx::array* biases, const QuantSpec& spec, Address address) {
  MatrixView view;
  view.N = weight.shape(0);
  view.weight = address(weight);
  view.spec = spec;
  if (scales) {
    view.K = weight.shape(1) * 32 / spec.bits;
    view.scales = address(*scales);
    view.biases = biases ? address(*biases) : nullptr;
    if (biases) view.type = float_type_of(scales->dtype());
  } else {
    view.K = weight.shape(1);
    view.type = float_type_of(weight.dtype());
  }
  return view;
}

mx::array plain_linear(const mx::array& x, const Arrays& inputs,
                       const WeightSlots& slots) {
  if (!slots.quantized())
    return mx::matmul(x, mx::transpose(plain_dequantized(inputs, slots)));
  const auto wide = [](const mx::array& a) {
    return mx::issubdtype(a.dtype(), mx::floating) ? mx::astype(a, mx::float32) : a;
  };
  std::optional<mx::array> biases;
  if (slots.biases >= 0) biases = wide(*slot(inputs, slots.biases));
  return mx::quantized_matmul(
      x, *slot(inputs, slots.weight), wide(*slot(inputs, slots.scales)), biases, true,
      slots.spec.group_size, slots.spec.bits, name(slots.spec.mode));
}

mx::array plain_dequantized(const Arrays& inputs, const WeightSlots& slots,
                            mx::Dtype type) {
  const mx::array& weight = *slot(inputs, slots.weight);
  if (!slots.quantized()) return mx::astype(weight, type);
  const auto in_type = [&](const mx::array& a) {
    return mx::issubdtype(a.dtype(), mx::floating) ? mx::astype(a, type) : a;
  };
  std::optional<mx::array> biases;
  if (slots.biases >= 0) biases = in_type(*slot(inputs, slots.biases));
  return mx::dequantize(weight, in_type(*slot(inputs, slots.scales)), biases,
                        slots.spec.group_size, slots.spec.bits, name(slots.spec.mode),
                        std::nullopt, type);
}

}  // namespace optiq::kernels
