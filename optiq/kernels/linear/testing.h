// Random weight matrices for kernel tests, in memory whose ends are guarded.
#pragma once
#include <cstring>
#include <random>
#include <vector>

#include "optiq/kernels/float_type.h"
#include "optiq/kernels/guarded.h"
#include "optiq/kernels/matrix.h"
#include "optiq/kernels/testing.h"

namespace optiq::testing {

using namespace optiq::kernels;

using Bytes = Guarded<std::uint8_t>;

inline Bytes stored_as(FloatType type, const std::vector<float>& values) {
  Bytes bytes(values.size() * static_cast<std::size_t>(size_of(type)));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::uint16_t half =
        type == FloatType::kF16 ? float_to_f16(values[i]) : float_to_bf16(values[i]);
    if (type == FloatType::kF32)
      std::memcpy(bytes.data() + 4 * i, &values[i], 4);
    else
      std::memcpy(bytes.data() + 2 * i, &half, 2);
  }
  return bytes;
}

struct TestMatrix {
  MatrixView view;
  std::vector<Bytes> memory;
};

inline TestMatrix random_coded(int N, int K, const QuantSpec& spec, FloatType type,
                               std::uint32_t seed) {
  TestMatrix m;
  m.view.N = N;
  m.view.K = K;
  m.view.type = type;
  m.view.spec = spec;
  std::mt19937 random(seed);
  const auto size = static_cast<std::size_t>(N * (std::int64_t{K} * spec.bits / 8));
  m.memory.emplace_back(size);
  for (auto& code : m.memory[0]) code = static_cast<std::uint8_t>(random());
  const auto groups = static_cast<std::size_t>(N * (K / spec.group_size));
  if (spec.mode == QuantMode::kAffine) {
    m.memory.push_back(stored_as(type, random_floats(groups, seed + 1, 0.02f)));
    m.memory.push_back(stored_as(type, random_floats(groups, seed + 2, 0.1f)));
    m.view.biases = m.memory[2].data();
  } else {
    m.memory.emplace_back(groups);
    for (auto& s : m.memory[1])  // near one in both formats
      s = static_cast<std::uint8_t>((spec.mode == QuantMode::kNvfp4 ? 0x30 : 124) +
                                    random() % 8);
    if (spec.bits == 8)  // no NaN codes
      for (auto& code : m.memory[0]) code &= ~1;
  }
  m.view.weight = m.memory[0].data();
  m.view.scales = m.memory[1].data();
  return m;
}

inline TestMatrix random_dense(int N, int K, FloatType type, std::uint32_t seed) {
  TestMatrix m;
  m.view.N = N;
  m.view.K = K;
  m.view.type = type;
  const auto n = static_cast<std::size_t>(N) * static_cast<std::size_t>(K);
  m.memory.push_back(stored_as(type, random_floats(n, seed, 0.1f)));
  m.view.weight = m.memory[0].data();
  return m;
}

/// Every format.
inline std::vector<QuantSpec> all_specs() {
  std::vector<QuantSpec> specs;
  for (const QuantModeInfo& mode : quant_modes())
    for (int bits : mode.bits)
      for (int group_size : mode.group_sizes)
        specs.push_back({mode.mode, bits, group_size});
  return specs;
}

}  // namespace optiq::testing
