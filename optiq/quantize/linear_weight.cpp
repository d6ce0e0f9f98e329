#include "optiq/quantize/linear_weight.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <stdexcept>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/quantize/affine.h"
#include "optiq/quantize/fp_formats.h"

namespace optiq::quantize {
namespace {

namespace mx = mlx::core;

constexpr int kBlockValues = 1 << 22;  // float32 values of a matrix at hand at once

mx::Dtype dtype_of(FloatType type) {
  return type == FloatType::kF32   ? mx::float32
         : type == FloatType::kF16 ? mx::float16
                                   : mx::bfloat16;
}

// An array over memory that it keeps alive.
template <class T>
mx::array owned_array(std::vector<T> values, mx::Shape shape, mx::Dtype dtype) {
  auto* held = new std::vector<T>(std::move(values));
  return mx::array(held->data(), std::move(shape), dtype,
                   [held](void*) { delete held; });
}

}  // namespace

std::vector<float> float_values(const kernels::LinearWeight& w) {
  mx::array values =
      w.quantized() ? kernels::dequantized(w) : mx::astype(w.weight, mx::float32);
  mx::eval(values);
  const float* data = values.data<float>();
  return {data, data + values.size()};
}

void for_each_row_block(
    const kernels::LinearWeight& w,
    const std::function<void(int first, std::span<const float>)>& f) {
  const int N = w.output_dim(), K = w.input_dim();
  const int rows = w.quantized() ? N : std::max(1, kBlockValues / K);
  for (int first = 0; first < N; first += rows) {
    kernels::LinearWeight block = w;
    if (rows < N)
      block.weight = mx::slice(w.weight, {first, 0}, {std::min(N, first + rows), K});
    f(first, float_values(block));
  }
}

FloatType scale_type_of(const kernels::LinearWeight& w) {
  const mx::Dtype dtype = w.quantized() ? w.scales->dtype() : w.weight.dtype();
  if (dtype == mx::float32) return FloatType::kF32;
  return dtype == mx::float16 ? FloatType::kF16 : FloatType::kBF16;
}

EncodedTensor encode(const kernels::LinearWeight& w, const QuantSpec& spec,
                     std::span<const float> importance, Search search) {
  const int N = w.output_dim(), K = w.input_dim();
  if (!is_supported(spec) || !fits(spec, K))
    throw std::invalid_argument(fmt::format(
        "[encode] {} does not fit a [{}, {}] matrix", describe(spec), N, K));
  EncodedTensor tensor;
  for_each_row_block(w, [&](int first, std::span<const float> values) {
    const std::int64_t rows = std::ssize(values) / K;
    EncodedTensor block =
        spec.mode == QuantMode::kAffine
            ? encode_affine(values, rows, K, importance,
                            {spec.bits, spec.group_size, scale_type_of(w), search})
            : encode_fp(values, rows, K, importance,
                        {spec.mode, scale_type_of(w), search});
    if (first == 0) {
      tensor = std::move(block);
      const auto whole = [&](auto& part) {
        part.reserve(part.size() / static_cast<std::size_t>(rows) *
                     static_cast<std::size_t>(N));
      };
      whole(tensor.weight), whole(tensor.scales), whole(tensor.biases);
      return;
    }
    const auto append = [](auto& to, const auto& from) {
      to.insert(to.end(), from.begin(), from.end());
    };
    append(tensor.weight, block.weight);
    append(tensor.scales, block.scales);
    append(tensor.biases, block.biases);
    tensor.N += block.N;
    tensor.error += block.error;
    tensor.mlx_error += block.mlx_error;
  });
  return tensor;
}

kernels::LinearWeight as_linear_weight(EncodedTensor tensor,
                                       const std::optional<mx::array>& bias) {
  const int N = static_cast<int>(tensor.N), G = static_cast<int>(tensor.groups());
  const int words = static_cast<int>(tensor.K * tensor.spec.bits / 32);
  const mx::Dtype scale_dtype =
      info(tensor.spec.mode).float_scales ? dtype_of(tensor.scale_type) : mx::uint8;
  kernels::LinearWeight w{owned_array(std::move(tensor.weight), {N, words}, mx::uint32),
                          owned_array(std::move(tensor.scales), {N, G}, scale_dtype),
                          std::nullopt, bias, tensor.spec};
  if (!tensor.biases.empty())
    w.biases = owned_array(std::move(tensor.biases), {N, G}, scale_dtype);
  return w;
}

bool fits(const QuantSpec& spec, int K) {
  return K % spec.group_size == 0 && K % 32 == 0;
}

std::int64_t encoded_bytes(const QuantSpec& spec, std::int64_t N, std::int64_t K,
                           FloatType scale_type) {
  const std::int64_t scale_bytes =
      info(spec.mode).float_scales ? 2 * size_of(scale_type) : 1;
  return N * (K * spec.bits / 8 + K / spec.group_size * scale_bytes);
}

}  // namespace optiq::quantize
