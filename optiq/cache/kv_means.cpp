#include "optiq/cache/kv_means.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <cstring>
#include <optional>

#include "optiq/base/error.h"
#include "optiq/base/file.h"
#include "optiq/checkpoint/safetensors.h"

namespace optiq::cache {
namespace {

using checkpoint::DataType;

// The layer of a tensor's name.
std::optional<int> layer_of(std::string_view name) {
  constexpr std::string_view kBegin = "layers.", kEnd = ".k_mean";
  if (!name.starts_with(kBegin) || !name.ends_with(kEnd)) return std::nullopt;
  const char* end = name.data() + name.size() - kEnd.size();
  int layer = 0;
  const auto [at, error] = std::from_chars(name.data() + kBegin.size(), end, layer);
  if (error != std::errc() || at != end || layer < 0) return std::nullopt;
  return layer;
}

}  // namespace

std::map<int, std::vector<float>> load_kv_means(const std::filesystem::path& file) {
  const auto mapped = MappedFile::open(file);
  const auto header = checkpoint::parse_safetensors_header(mapped->bytes(), file);
  std::map<int, std::vector<float>> means;
  for (const checkpoint::TensorInfo& tensor : header.tensors) {
    const auto layer = layer_of(tensor.name);
    if (!layer || tensor.dtype != DataType::kF32 || tensor.shape.size() != 1)
      throw CheckpointError(fmt::format(
          "{}: {}: expected tensors layers.<i>.k_mean of one dimension in F32, "
          "found {}",
          file.string(), tensor.name,
          checkpoint::describe(tensor.dtype, tensor.shape)));
    std::vector<float>& mean = means[*layer];
    mean.resize(static_cast<std::size_t>(tensor.bytes / sizeof(float)));
    if (!mean.empty())
      std::memcpy(mean.data(), mapped->bytes().data() + tensor.offset, tensor.bytes);
    for (const float value : mean)
      if (!std::isfinite(value))
        throw CheckpointError(fmt::format("{}: {}: expected finite values, found {}",
                                          file.string(), tensor.name, value));
  }
  return means;
}

void save_kv_means(const std::filesystem::path& file,
                   const std::map<int, std::vector<float>>& means) {
  std::vector<checkpoint::TensorEntry> entries;
  const auto name = [](int layer) { return fmt::format("layers.{}.k_mean", layer); };
  for (const auto& [layer, mean] : means)
    entries.push_back({name(layer), DataType::kF32, {std::ssize(mean)}});
  auto temporary = file;
  temporary += ".tmp";
  try {
    checkpoint::SafetensorsWriter writer(temporary, entries, {{"format", "mlx"}});
    for (const auto& [layer, mean] : means)
      writer.write(name(layer), std::as_bytes(std::span(mean)));
    writer.finish();
    sync_to_disk(temporary);
    std::filesystem::rename(temporary, file);
  } catch (...) {
    std::error_code ignored;
    std::filesystem::remove(temporary, ignored);
    throw;
  }
}

}  // namespace optiq::cache
