#include "optiq/checkpoint/scaled_tensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <string_view>
#include <utility>

#include "optiq/base/error.h"
#include "optiq/base/parallel.h"
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

// Rows and columns of a block that shares a scale, and scales of one row of blocks.
struct Blocks {
  std::int64_t rows, columns, scale_columns;
};

Blocks blocks_of(const TensorInfo& tensor, const TensorInfo& scales,
                 std::pair<std::int64_t, std::int64_t> block) {
  if (tensor.shape.size() != 2)
    fail(tensor, "expected a matrix, found " + describe(tensor.dtype, tensor.shape));
  if (!float_type(scales.dtype))
    fail(scales,
         "expected scales in float, found " + describe(scales.dtype, scales.shape));
  const std::int64_t N = tensor.shape[0], K = tensor.shape[1];
  std::int64_t count = 1;
  for (const std::int64_t n : scales.shape) count *= n;
  const auto [rows, columns] = block;
  if (scales.shape.size() == 2 && rows > 0 && columns > 0 &&
      scales.shape[0] == blocks(N, rows) && scales.shape[1] == blocks(K, columns))
    return {rows, columns, scales.shape[1]};
  if (count == 1 || (count == N && !scales.shape.empty() && scales.shape[0] == N))
    return {count == 1 ? std::max<std::int64_t>(N, 1) : 1, std::max<std::int64_t>(K, 1),
            1};
  fail(scales, fmt::format("expected one scale, one for each of {} rows, or one for "
                           "each block of {} x {}, found {}",
                           N, rows, columns, describe(scales.dtype, scales.shape)));
}

// Code times scale in bfloat16, rounded to nearest even.
void unscale(const TensorInfo& tensor, const Blocks& blocks,
             std::span<const std::byte> codes, std::span<const std::byte> scales,
             FloatType scale_type, std::span<std::byte> values) {
  static const std::array<float, 256> table = e4m3_values();
  const std::int64_t N = tensor.shape[0], K = tensor.shape[1];
  auto* const to = reinterpret_cast<std::uint16_t*>(values.data());
  parallel_for(static_cast<std::size_t>(N), [&](std::size_t row) {
    const auto n = static_cast<std::int64_t>(row);
    for (std::int64_t begin = 0; begin < K; begin += blocks.columns) {
      const float scale = load_float(
          scales.data(),
          n / blocks.rows * blocks.scale_columns + begin / blocks.columns, scale_type);
      const std::int64_t end = std::min(begin + blocks.columns, K);
      for (std::int64_t at = n * K + begin; at < n * K + end; ++at)
        to[at] = float_to_bf16(table[static_cast<std::uint8_t>(codes[at])] * scale);
    }
  });
}

ComputedTensor scaled(const TensorInfo& tensor, const TensorInfo& scales,
                      std::pair<std::int64_t, std::int64_t> block) {
  const Blocks blocks = blocks_of(tensor, scales, block);
  ComputedTensor result{tensor, {tensor.name, scales.name}, {}};
  result.info.dtype = DataType::kBF16;
  result.info.bytes = 2 * tensor.bytes;
  result.compute = [tensor, blocks, type = *float_type(scales.dtype)](
                       std::span<const std::span<const std::byte>> sources,
                       std::span<std::byte> values) {
    unscale(tensor, blocks, sources[0], sources[1], type, values);
  };
  return result;
}

}  // namespace

std::vector<ComputedTensor> find_scaled(const std::vector<const TensorInfo*>& tensors,
                                        const nlohmann::json& config) {
  std::map<std::string_view, const TensorInfo*> by_name;
  for (const TensorInfo* tensor : tensors) by_name.emplace(tensor->name, tensor);
  std::vector<ComputedTensor> found;
  for (const TensorInfo* tensor : tensors) {
    if (tensor->dtype != DataType::kF8E4M3 || !tensor->name.ends_with(".weight"))
      continue;
    for (const char* end : {"_scale_inv", "_scale"})
      if (const auto scales = by_name.find(tensor->name + end);
          scales != by_name.end()) {
        found.push_back(scaled(*tensor, *scales->second, block_of(config)));
        break;
      }
  }
  return found;
}

}  // namespace optiq::checkpoint
