#include "optiq/cache/kv_channels.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "optiq/base/error.h"
#include "optiq/base/file.h"
#include "optiq/checkpoint/safetensors.h"

namespace optiq::cache {
namespace {

using checkpoint::DataType;

constexpr float kLargestScale = 1 << 20;

struct Part {
  const char* name;
  std::vector<float> ChannelTransform::*values;
  bool is_scale;
};

constexpr std::array<Part, 3> kParts{{{"k_mean", &ChannelTransform::k_mean, false},
                                      {"k_scale", &ChannelTransform::k_scale, true},
                                      {"v_scale", &ChannelTransform::v_scale, true}}};

struct Place {
  int layer = 0;
  const Part* part = nullptr;  // null: no such name
};

Place place_of(std::string_view name) {
  constexpr std::string_view kBegin = "layers.";
  const std::size_t dot = name.rfind('.');
  if (!name.starts_with(kBegin) || dot < kBegin.size()) return {};
  const char* end = name.data() + dot;
  Place place;
  const auto [at, error] =
      std::from_chars(name.data() + kBegin.size(), end, place.layer);
  if (error != std::errc() || at != end || place.layer < 0) return {};
  for (const Part& part : kParts)
    if (name.substr(dot + 1) == part.name) place.part = &part;
  return place;
}

}  // namespace

KvChannels load_kv_channels(const std::filesystem::path& file) {
  const auto mapped = MappedFile::open(file);
  const auto header = checkpoint::parse_safetensors_header(mapped->bytes(), file);
  KvChannels channels;
  for (const checkpoint::TensorInfo& tensor : header.tensors) {
    const Place place = place_of(tensor.name);
    if (!place.part || tensor.dtype != DataType::kF32 || tensor.shape.size() != 1)
      throw CheckpointError(fmt::format(
          "{}: {}: expected tensors layers.<i>.k_mean, k_scale or v_scale of one "
          "dimension in F32, found {}",
          file.string(), tensor.name,
          checkpoint::describe(tensor.dtype, tensor.shape)));
    std::vector<float>& values = channels[place.layer].*(place.part->values);
    values.resize(static_cast<std::size_t>(tensor.bytes / sizeof(float)));
    if (!values.empty())
      std::memcpy(values.data(), mapped->bytes().data() + tensor.offset, tensor.bytes);
    for (const float value : values) {
      const bool legal = place.part->is_scale
                             ? value >= 1 / kLargestScale && value <= kLargestScale
                             : std::isfinite(value);
      if (!legal)
        throw CheckpointError(fmt::format(
            "{}: {}: expected {}, found {}", file.string(), tensor.name,
            place.part->is_scale ? "scales of 2^-20 to 2^20" : "finite values", value));
    }
  }
  return channels;
}

void save_kv_channels(const std::filesystem::path& file, const KvChannels& channels) {
  std::vector<checkpoint::TensorEntry> entries;
  const auto each = [&](auto&& f) {
    for (const auto& [layer, transform] : channels)
      for (const Part& part : kParts)
        if (const auto& values = transform.*(part.values); !values.empty())
          f(fmt::format("layers.{}.{}", layer, part.name), values);
  };
  each([&](const std::string& name, const std::vector<float>& values) {
    entries.push_back({name, DataType::kF32, {std::ssize(values)}});
  });
  auto temporary = file;
  temporary += ".tmp";
  try {
    checkpoint::SafetensorsWriter writer(temporary, entries, {{"format", "mlx"}});
    each([&](const std::string& name, const std::vector<float>& values) {
      writer.write(name, std::as_bytes(std::span(values)));
    });
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
