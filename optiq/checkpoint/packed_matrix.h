// The codes, zero points and scales of one packed matrix, whoever packed it.
//
// w[n][k] = scale[n][g] (code[n][k] - zero[n][g]),  g the group of column k
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "optiq/checkpoint/packed_config.h"
#include "optiq/kernels/float_type.h"

namespace optiq::checkpoint {

struct PackedShape {
  std::int64_t N, K, G;
};

/// Bytes as the files hold them (packed_config.h), whose sizes the caller has checked.
struct PackedBytes {
  std::span<const std::byte> codes, scales;
  std::span<const std::byte> zeros;  // empty: half of the range, as in symmetric codes
  std::span<const std::byte> order;  // g_idx [K] as int32, or empty: neighbours
};

class PackedMatrix {
 public:
  /// Requires  affine; K a multiple of 32 / bits words, N of 8 for AWQ
  PackedMatrix(const PackedConfig& config, PackedShape shape, FloatType scale_type,
               PackedBytes bytes);

  /// MLX's packing: a stream of bits for each row, the lowest first.
  ///
  /// Shapes    [N, K bits/32]
  void write_codes(std::span<std::uint32_t> words) const;

  /// [N, G], in the type of the scales.
  void write_scales(std::span<std::byte> values) const;

  /// -scale x zero, rounded to that type.
  void write_biases(std::span<std::byte> values) const;

  /// The matrix itself [N, K], rounded to that type.
  ///
  /// Requires  groups_in_range()
  void write_values(std::span<std::byte> values) const;

  bool groups_in_range() const;        // every entry of the order is a group
  bool groups_are_neighbours() const;  // the order says nothing of its own

 private:
  float scale(std::int64_t n, std::int64_t g) const;
  int zero(std::int64_t n, std::int64_t g) const;
  std::int64_t group_of(std::int64_t k) const;

  PackedConfig config_;
  PackedShape shape_;
  FloatType scale_type_;
  PackedBytes bytes_;
};

}  // namespace optiq::checkpoint
