#include "optiq/checkpoint/scaled_tensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string_view>
#include <utility>

#include "optiq/base/error.h"
#include "optiq/checkpoint/quote.h"
#include "optiq/kernels/float_type.h"
#include "optiq/kernels/fp_values.h"

namespace optiq::checkpoint {
namespace {

constexpr std::int64_t kBlock = 128;

[[noreturn]] void fail(const TensorInfo& tensor, const std::string& what) {
  throw CheckpointError(
      fmt::format("{}: tensor {}: {}", tensor.file.string(), quote(tensor.name), what));
}

std::array<float, 256> e4m3_values() {
  std::array<float, 256> values{};
  for (int code = 0; code < 256; ++code)
    values[static_cast<std::size_t>(code)] =
        (code & 127) == 127 ? std::numeric_limits<float>::quiet_NaN()
                            : e4m3_to_float(static_cast<std::uint8_t>(code));
  return values;
}

// Rows and columns of a block that the config states.
std::pair<std::int64_t, std::int64_t> block_of(const nlohmann::json& config) {
  const auto found = config.find("quantization_config");
  if (found == config.end() || !found->is_object()) return {kBlock, kBlock};
  const auto size = found->find("weight_block_size");
  if (size == found->end() || !size->is_array() || size->size() != 2 ||
      !(*size)[0].is_number_integer() || !(*size)[1].is_number_integer())
    return {kBlock, kBlock};
  return {(*size)[0].get<std::int64_t>(), (*size)[1].get<std::int64_t>()};
}

std::int64_t blocks(std::int64_t n, std::int64_t of) { return (n + of - 1) / of; }

ScaledTensor scaled(const TensorInfo& tensor, const TensorInfo& scales,
                    std::pair<std::int64_t, std::int64_t> block) {
  if (tensor.shape.size() != 2)
    fail(tensor, "expected a matrix, found " + describe(tensor.dtype, tensor.shape));
  if (scales.dtype != DataType::kF32 && scales.dtype != DataType::kBF16 &&
      scales.dtype != DataType::kF16)
    fail(scales,
         "expected scales in float, found " + describe(scales.dtype, scales.shape));
  const std::int64_t N = tensor.shape[0], K = tensor.shape[1];
  ScaledTensor result{tensor, scales.name};
  result.info.dtype = DataType::kBF16;
  result.info.bytes = 2 * tensor.bytes;
  std::int64_t count = 1;
  for (const std::int64_t n : scales.shape) count *= n;
  const auto [rows, columns] = block;
  if (scales.shape.size() == 2 && rows > 0 && columns > 0 &&
      scales.shape[0] == blocks(N, rows) && scales.shape[1] == blocks(K, columns)) {
    result.block_rows = rows;
    result.block_columns = columns;
    result.scale_columns = scales.shape[1];
  } else if (count == 1 ||
             (count == N && !scales.shape.empty() && scales.shape[0] == N)) {
    result.block_rows = count == 1 ? std::max<std::int64_t>(N, 1) : 1;
    result.block_columns = std::max<std::int64_t>(K, 1);
    result.scale_columns = 1;
  } else {
    fail(scales,
         fmt::format(
             "expected one scale, one for each of {} rows, or one for each block "
             "of {} x {}, found {}",
             N, rows, columns, describe(scales.dtype, scales.shape)));
  }
  return result;
}

}  // namespace

std::map<std::string, ScaledTensor> find_scaled(
    const std::vector<const TensorInfo*>& tensors, const nlohmann::json& config) {
  std::map<std::string_view, const TensorInfo*> by_name;
  for (const TensorInfo* tensor : tensors) by_name.emplace(tensor->name, tensor);
  std::map<std::string, ScaledTensor> found;
  for (const TensorInfo* tensor : tensors) {
    if (tensor->dtype != DataType::kF8E4M3 || !tensor->name.ends_with(".weight"))
      continue;
    for (const char* end : {"_scale_inv", "_scale"})
      if (const auto scales = by_name.find(tensor->name + end);
          scales != by_name.end()) {
        found.emplace(tensor->name, scaled(*tensor, *scales->second, block_of(config)));
        break;
      }
  }
  return found;
}

std::optional<std::uint64_t> unscale(const ScaledTensor& tensor,
                                     std::span<const std::byte> codes,
                                     std::span<const float> scales,
                                     std::span<std::uint16_t> values) {
  static const std::array<float, 256> table = e4m3_values();
  const std::int64_t N = tensor.info.shape[0], K = tensor.info.shape[1];
  for (std::int64_t n = 0; n < N; ++n)
    for (std::int64_t begin = 0; begin < K; begin += tensor.block_columns) {
      const float scale = scales[static_cast<std::size_t>(
          n / tensor.block_rows * tensor.scale_columns + begin / tensor.block_columns)];
      const std::int64_t end = std::min(begin + tensor.block_columns, K);
      for (std::int64_t k = begin; k < end; ++k) {
        const auto at = static_cast<std::size_t>(n * K + k);
        const float value = table[static_cast<std::uint8_t>(codes[at])] * scale;
        if (!std::isfinite(value)) return at;
        values[at] = float_to_bf16(value);
      }
    }
  return std::nullopt;
}

}  // namespace optiq::checkpoint
