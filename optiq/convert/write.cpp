#include "optiq/convert/write.h"

#include <fmt/format.h>

#include <algorithm>

#include "mlx/transforms.h"
#include "optiq/base/error.h"
#include "optiq/base/file.h"
#include "optiq/base/signal.h"
#include "optiq/checkpoint/quantization_config.h"
#include "optiq/checkpoint/safetensors.h"
#include "optiq/convert/inspect.h"
#include "optiq/convert/mlx_form.h"
#include "optiq/convert/other_files.h"

namespace optiq::convert {
namespace {

namespace fs = std::filesystem;
using checkpoint::DataType;
using checkpoint::TensorEntry;
using checkpoint::TensorInfo;

constexpr std::uint64_t kShardBytes = 5ull << 30;
const std::map<std::string, std::string> kMetadata{{"format", "mlx"}};

// The module path of a matrix's weight tensor, if the plan has it.
std::optional<std::string> planned_module(const std::string& tensor, const Plan& plan) {
  constexpr std::string_view kWeight = ".weight";
  if (!tensor.ends_with(kWeight)) return std::nullopt;
  std::string path = tensor.substr(0, tensor.size() - kWeight.size());
  const auto found = plan.find(path);
  if (found == plan.end() || !found->second) return std::nullopt;
  return path;
}

// What one source tensor becomes.
std::vector<TensorEntry> entries_of(const checkpoint::Checkpoint& source,
                                    const MlxForm& form, const Plan& plan,
                                    const std::string& tensor) {
  const TensorInfo& in = source.info(tensor);
  const std::string written = form.written_name(tensor);
  const auto module = planned_module(tensor, plan);
  if (!module) {
    std::vector<std::int64_t> shape = in.shape;
    if (tensor.ends_with(".conv1d.weight") && shape.size() == 3 && shape[1] == 1)
      std::swap(shape[1], shape[2]);
    return {{written, in.dtype, shape}};
  }
  const QuantSpec& spec = *plan.at(*module);
  const QuantModeInfo& mode = info(spec.mode);
  const std::string path = form.written_name(*module);
  // Of experts, a matrix each.
  const auto with_columns = [&](std::int64_t columns) {
    std::vector<std::int64_t> shape = in.shape;
    shape.back() = columns;
    return shape;
  };
  const std::int64_t K = in.shape.back();
  const DataType scales = mode.float_scales ? in.dtype : DataType::kU8;
  std::vector<TensorEntry> entries{
      {path + ".weight", DataType::kU32, with_columns(K * spec.bits / 32)},
      {path + ".scales", scales, with_columns(K / spec.group_size)}};
  if (mode.has_biases)
    entries.push_back({path + ".biases", scales, with_columns(K / spec.group_size)});
  return entries;
}

struct Shard {
  std::vector<std::string> tensors;  // of the source
  std::vector<TensorEntry> entries;
  std::uint64_t bytes = 0;
};

std::uint64_t bytes_of(const TensorEntry& entry) {
  std::uint64_t bits = static_cast<std::uint64_t>(checkpoint::info(entry.dtype).bits);
  for (std::int64_t n : entry.shape) bits *= static_cast<std::uint64_t>(n);
  return bits / 8;
}

std::vector<Shard> shards_of(const checkpoint::Checkpoint& source, const MlxForm& form,
                             const Plan& plan) {
  std::vector<Shard> shards(1);
  for (const std::string& tensor : form.tensors()) {
    const auto entries = entries_of(source, form, plan, tensor);
    std::uint64_t bytes = 0;
    for (const TensorEntry& entry : entries) bytes += bytes_of(entry);
    if (shards.back().bytes > 0 && shards.back().bytes + bytes > kShardBytes)
      shards.emplace_back();
    Shard& shard = shards.back();
    shard.tensors.push_back(tensor);
    shard.entries.insert(shard.entries.end(), entries.begin(), entries.end());
    shard.bytes += bytes;
  }
  return shards;
}

std::span<const std::byte> bytes_of(const mlx::core::array& array) {
  OPTIQ_CHECK(array.flags().row_contiguous, "a tensor to write lies in rows");
  return {reinterpret_cast<const std::byte*>(array.data<char>()), array.nbytes()};
}

void write_shard(const checkpoint::Checkpoint& source, const MlxForm& form,
                 Encoder& encoder, const Plan& plan, quantize::Search search,
                 const Shard& shard, const fs::path& file) {
  checkpoint::SafetensorsWriter writer(file, shard.entries, kMetadata);
  for (const std::string& tensor : shard.tensors) {
    throw_if_interrupted();
    if (const auto module = planned_module(tensor, plan)) {
      const auto w = encoder.encoded(*module, *plan.at(*module), search);
      const std::string path = form.written_name(*module);
      writer.write(path + ".weight", bytes_of(w.weight));
      writer.write(path + ".scales", bytes_of(*w.scales));
      if (w.biases) writer.write(path + ".biases", bytes_of(*w.biases));
    } else {
      writer.write(form.written_name(tensor), bytes_of(form.written_tensor(tensor)));
    }
    source.release(tensor);
  }
  writer.finish();
}

// The original of this program once wrote one width for all while its metadata claimed
// a mix; so what is on disk is looked at before it is put in place.
void confirm_widths(const fs::path& directory, const MlxForm& form, const Plan& plan) {
  const auto written = checkpoint::Checkpoint::open(
      directory, {checkpoint::Residency::kMapped, /*check_finite=*/false});
  const auto quantization =
      checkpoint::parse_quantization(written.config(), directory / "config.json");
  for (const auto& [path, spec] : plan) {
    const auto found = checkpoint::module_quantization(
        written, quantization ? &*quantization : nullptr, form.written_name(path));
    const bool same =
        found.has_value() == spec.has_value() && (!spec || found->spec == *spec);
    OPTIQ_CHECK(same, fmt::format("{} was planned as {} and written as {}", path,
                                  spec ? describe(*spec) : "float",
                                  found ? describe(found->spec) : "float"));
  }
}

}  // namespace

std::int64_t planned_bytes(const checkpoint::Checkpoint& source, const Plan& plan) {
  std::uint64_t bytes = 0;
  for (const Shard& shard : shards_of(source, MlxForm(source), plan))
    bytes += checkpoint::safetensors_file_bytes(shard.entries, kMetadata);
  return static_cast<std::int64_t>(bytes);
}

std::int64_t write_model(const checkpoint::Checkpoint& source, Encoder& encoder,
                         const Plan& plan, quantize::Search search,
                         const Sidecars& sidecars, AtomicDirectory& directory) {
  const MlxForm form(source);
  const auto shards = shards_of(source, form, plan);
  nlohmann::json weight_map = nlohmann::json::object();
  std::uint64_t total = 0;
  std::int64_t bytes = 0, params = 0;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const std::string name =
        shards.size() == 1
            ? "model.safetensors"
            : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    write_shard(source, form, encoder, plan, search, shards[i],
                directory.path() / name);
    for (const TensorEntry& entry : shards[i].entries) weight_map[entry.name] = name;
    total += shards[i].bytes;
    bytes += static_cast<std::int64_t>(fs::file_size(directory.path() / name));
    for (const std::string& tensor : shards[i].tensors) {
      std::int64_t n = 1;
      for (std::int64_t d : source.info(tensor).shape) n *= d;
      params += n;
    }
  }
  const auto write_json = [&](const fs::path& name, const nlohmann::json& value) {
    write_file_atomic(directory.path() / name, value.dump(4) + "\n");
  };
  write_json("model.safetensors.index.json",
             {{"metadata", {{"total_size", total}, {"total_parameters", params}}},
              {"weight_map", weight_map}});
  write_json("config.json", form.written_config(plan));
  copy_other_files(source.directory(), directory.path());
  fs::create_directory(directory.path() / "optiq");
  write_json("optiq/metadata.json", sidecars.metadata);
  if (!sidecars.sensitivity.is_null())
    write_json("optiq/sensitivity.json", sidecars.sensitivity);
  confirm_widths(directory.path(), form, plan);
  write_file_atomic(directory.path() / "optiq/report.html",
                    inspection_page(inspect(directory.path()),
                                    directory.target().filename().string()));
  directory.commit();
  return bytes;
}

}  // namespace optiq::convert
