// What the tests of this folder share: kinds of weights, and the way to and from MLX.
#pragma once
#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <unordered_map>
#include <vector>

#include "optiq/quantize/affine.h"
#include "optiq/quantize/packing.h"

namespace optiq::quantize {

enum class Kind {
  kNormal,
  kHeavyTailed,  // Student t, 3 degrees of freedom
  kConstant,     // another constant in every row
  kZero,         // with negative zeros among them
  kTiny,         // around 1e-6, where MLX's smallest scale rules
  kOneOutlier,   // 37 among normals
  kPositive,
  kTwoValued,  // -1 and 1
  kLarge,      // near the end of float16
  kSubnormal,  // of float32
  kHuge,       // near the end of float32: MLX overflows
};

/// What MLX can quantize in every float type without overflow, and everything.
inline constexpr Kind kKinds[] = {
    Kind::kNormal,     Kind::kHeavyTailed, Kind::kConstant,  Kind::kZero, Kind::kTiny,
    Kind::kOneOutlier, Kind::kPositive,    Kind::kTwoValued, Kind::kLarge};
inline constexpr Kind kAnyKinds[] = {
    Kind::kNormal, Kind::kHeavyTailed, Kind::kConstant, Kind::kZero,
    Kind::kTiny,   Kind::kOneOutlier,  Kind::kPositive, Kind::kTwoValued,
    Kind::kLarge,  Kind::kSubnormal,   Kind::kHuge};

inline std::vector<float> make_weights(Kind kind, std::int64_t N, std::int64_t K,
                                       unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::student_t_distribution<float> heavy(3);
  std::vector<float> w(static_cast<std::size_t>(N * K));
  for (std::int64_t n = 0; n < N; ++n) {
    const float level = normal(random);
    for (std::int64_t k = 0; k < K; ++k) {
      const float x = normal(random);
      float& value = w[n * K + k];
      switch (kind) {
        case Kind::kNormal:
          value = x;
          break;
        case Kind::kHeavyTailed:
          value = heavy(random);
          break;
        case Kind::kConstant:
          value = level;
          break;
        case Kind::kZero:
          value = k % 3 ? 0.0f : -0.0f;
          break;
        case Kind::kTiny:
          value = 1e-6f * x;
          break;
        case Kind::kOneOutlier:
          value = k % 32 == n % 32 ? 37.0f : x;
          break;
        case Kind::kPositive:
          value = 0.2f + std::abs(x);
          break;
        case Kind::kTwoValued:
          value = x < 0 ? -1.0f : 1.0f;
          break;
        case Kind::kLarge:
          value = 8000 * x;
          break;
        case Kind::kSubnormal:
          value = 1e-40f * x;
          break;
        case Kind::kHuge:
          value = std::copysign(3e38f / (1 + std::abs(level)), x);
          break;
      }
    }
  }
  return w;
}

/// Squares of a heavy-tailed variable, some of them zero.
inline std::vector<float> make_importance(std::int64_t K, unsigned seed) {
  std::mt19937 random(seed);
  std::student_t_distribution<float> heavy(3);
  std::vector<float> h(static_cast<std::size_t>(K));
  for (float& value : h) {
    value = heavy(random);
    value = random() % 16 ? value * value : 0.0f;
  }
  return h;
}

inline float rounded(float value, FloatType type) {
  if (type == FloatType::kBF16) return bf16_to_float(float_to_bf16(value));
  return type == FloatType::kF16 ? f16_to_float(float_to_f16(value)) : value;
}

inline const char* mlx_name(FloatType type) {
  return type == FloatType::kF32   ? "float32"
         : type == FloatType::kF16 ? "float16"
                                   : "bfloat16";
}

inline mlx::core::Dtype mlx_type(FloatType type) {
  return type == FloatType::kF32   ? mlx::core::float32
         : type == FloatType::kF16 ? mlx::core::float16
                                   : mlx::core::bfloat16;
}

inline std::string describe_case(Kind kind, int bits, int group_size, FloatType type) {
  return "kind " + std::to_string(static_cast<int>(kind)) + ", " +
         std::to_string(bits) + " bits, group " + std::to_string(group_size) + ", " +
         mlx_name(type);
}

inline mlx::core::array to_mlx(const std::vector<float>& w, std::int64_t N,
                               std::int64_t K, FloatType type) {
  return mlx::core::astype(
      mlx::core::array(w.data(), {static_cast<int>(N), static_cast<int>(K)}),
      mlx_type(type));
}

inline std::vector<std::byte> bytes_of(mlx::core::array a) {
  a = mlx::core::contiguous(a);
  a.eval();
  const auto* data = a.data<std::uint8_t>();
  std::vector<std::byte> bytes(a.nbytes());
  std::memcpy(bytes.data(), data, bytes.size());
  return bytes;
}

inline std::vector<std::byte> as_bytes(const std::vector<std::uint32_t>& words) {
  std::vector<std::byte> bytes(words.size() * 4);
  std::memcpy(bytes.data(), words.data(), bytes.size());
  return bytes;
}

inline std::vector<float> floats_of(mlx::core::array a) {
  const auto bytes = bytes_of(mlx::core::astype(a, mlx::core::float32));
  std::vector<float> values(bytes.size() / 4);
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

inline EncodedTensor from_mlx(const std::vector<mlx::core::array>& parts,
                              std::int64_t N, std::int64_t K,
                              const AffineOptions& options) {
  EncodedTensor tensor;
  tensor.spec = {QuantMode::kAffine, options.bits, options.group_size};
  tensor.scale_type = options.scale_type;
  tensor.N = N;
  tensor.K = K;
  const auto words = bytes_of(parts[0]);
  tensor.weight.resize(words.size() / 4);
  std::memcpy(tensor.weight.data(), words.data(), words.size());
  tensor.scales = bytes_of(parts[1]);
  tensor.biases = bytes_of(parts[2]);
  return tensor;
}

inline std::vector<mlx::core::array> to_mlx(const EncodedTensor& tensor) {
  namespace mx = mlx::core;
  const int N = static_cast<int>(tensor.N), G = static_cast<int>(tensor.groups());
  const auto floats = [&](const std::vector<std::byte>& data) {
    std::vector<float> values(static_cast<std::size_t>(N) * G);
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = load_float(data.data(), i, tensor.scale_type);
    return mx::astype(mx::array(values.data(), {N, G}), mlx_type(tensor.scale_type));
  };
  return {mx::array(tensor.weight.data(),
                    {N, static_cast<int>(tensor.weight.size()) / N}, mx::uint32),
          floats(tensor.scales), floats(tensor.biases)};
}

/// sum h (w - (scale code + bias))^2 of every group, in double.
inline std::vector<double> group_errors(const std::vector<float>& w,
                                        const std::vector<float>& h,
                                        const EncodedTensor& tensor) {
  std::vector<std::uint8_t> codes(w.size());
  unpack_codes(tensor.weight, tensor.spec.bits, codes);
  const std::int64_t size = tensor.spec.group_size;
  std::vector<double> errors(w.size() / size);
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(w.size()); ++i) {
    const double scale = load_float(tensor.scales.data(), i / size, tensor.scale_type);
    const double bias = load_float(tensor.biases.data(), i / size, tensor.scale_type);
    const double d = w[i] - (scale * codes[i] + bias);
    errors[i / size] += h[i % tensor.K] * d * d;
  }
  return errors;
}

/// Tensors written by mx.quantize; see the file's metadata.
inline std::unordered_map<std::string, mlx::core::array> load_reference() {
  return mlx::core::load_safetensors(
             std::string(OPTIQ_SOURCE_DIR) +
             "/optiq/quantize/testdata/mlx_quantize.safetensors")
      .first;
}

}  // namespace optiq::quantize
