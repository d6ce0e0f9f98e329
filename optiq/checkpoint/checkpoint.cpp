#include "optiq/checkpoint/checkpoint.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <limits>
#include <optional>
#include <set>
#include <system_error>

#include "optiq/base/error.h"
#include "optiq/checkpoint/borrowed_array.h"
#include "optiq/checkpoint/finite.h"
#include "optiq/checkpoint/json_file.h"
#include "optiq/checkpoint/packed_tensors.h"
#include "optiq/checkpoint/quantization_config.h"
#include "optiq/checkpoint/quote.h"
#include "optiq/checkpoint/scaled_tensors.h"

namespace optiq::checkpoint {
namespace fs = std::filesystem;
namespace {

constexpr const char* kIndexName = "model.safetensors.index.json";

std::optional<mx::Dtype> mlx_dtype(DataType type) {
  switch (type) {
    case DataType::kBool:
      return mx::bool_;
    case DataType::kU8:
      return mx::uint8;
    case DataType::kI8:
      return mx::int8;
    case DataType::kU16:
      return mx::uint16;
    case DataType::kI16:
      return mx::int16;
    case DataType::kU32:
      return mx::uint32;
    case DataType::kI32:
      return mx::int32;
    case DataType::kU64:
      return mx::uint64;
    case DataType::kI64:
      return mx::int64;
    case DataType::kF16:
      return mx::float16;
    case DataType::kBF16:
      return mx::bfloat16;
    case DataType::kF32:
      return mx::float32;
    case DataType::kF64:
      return mx::float64;
    case DataType::kC64:
      return mx::complex64;
    default:
      return std::nullopt;
  }
}

[[noreturn]] void fail(const fs::path& file, const std::string& what) {
  throw CheckpointError(fmt::format("{}: {}", file.string(), what));
}

[[noreturn]] void fail(const TensorInfo& tensor, const std::string& what) {
  fail(tensor.file, fmt::format("tensor {}: {}", quote(tensor.name), what));
}

void require_finite(const TensorInfo& tensor, std::span<const std::byte> bytes) {
  if (const auto bad = find_not_finite(bytes, tensor.dtype))
    fail(tensor,
         fmt::format("expected finite values, found NaN or infinity at {}", *bad));
}

mx::Shape shape_of(const TensorInfo& tensor) {
  mx::Shape shape;
  for (const std::int64_t dimension : tensor.shape) {
    if (dimension > std::numeric_limits<mx::ShapeElem>::max())
      fail(tensor, fmt::format("{}: a dimension is too large",
                               describe(tensor.dtype, tensor.shape)));
    shape.push_back(static_cast<mx::ShapeElem>(dimension));
  }
  return shape;
}

// name -> shard file name, from the index; every name is checked to be a plain one.
std::map<std::string, std::string> read_weight_map(const fs::path& index) {
  const nlohmann::json json = read_json_object(index);
  const auto map = json.find("weight_map");
  if (map == json.end() || !map->is_object())
    fail(index, "weight_map: expected an object");
  std::map<std::string, std::string> files;
  for (const auto& [name, file] : map->items()) {
    if (!file.is_string())
      fail(index, fmt::format("weight_map: tensor {}: expected a file name, found {}",
                              quote(name), quote(file.dump())));
    const auto& text = file.get_ref<const std::string&>();
    if (fs::path(text).filename() != text || text.find('\0') != std::string::npos ||
        !text.ends_with(".safetensors"))
      fail(index,
           fmt::format("weight_map: tensor {}: expected the name of a safetensors "
                       "file in this directory, found {}",
                       quote(name), quote(text)));
    files[name] = text;
  }
  return files;
}

std::vector<fs::path> find_shards(const fs::path& directory) {
  std::vector<fs::path> files;
  std::error_code error;
  for (fs::directory_iterator i(directory, error), end; !error && i != end;
       i.increment(error)) {
    const std::string name = i->path().filename().string();
    if (name.starts_with("model") && name.ends_with(".safetensors"))
      files.push_back(i->path());
  }
  if (error) fail(directory, "cannot list: " + error.message());
  std::ranges::sort(files);
  return files;
}

}  // namespace

Checkpoint Checkpoint::open(const fs::path& directory, OpenOptions options) {
  std::error_code error;
  if (!fs::is_directory(directory, error))
    fail(directory, fs::exists(directory, error)
                        ? "expected a model directory, found a file"
                        : "expected a model directory, there is nothing");
  Checkpoint checkpoint;
  checkpoint.directory_ = directory;
  checkpoint.options_ = options;
  checkpoint.config_ = std::make_shared<const nlohmann::json>(
      read_json_object(directory / "config.json"));

  const fs::path index = directory / kIndexName;
  std::map<std::string, std::string> weight_map;
  std::vector<fs::path> files;
  if (fs::exists(index, error)) {
    weight_map = read_weight_map(index);
    std::set<std::string> names;
    for (const auto& [name, file] : weight_map) names.insert(file);
    for (const std::string& name : names) {
      if (!fs::exists(directory / name, error))
        fail(directory / name,
             fmt::format("missing, though {} lists it", index.string()));
      files.push_back(directory / name);
    }
  } else {
    files = find_shards(directory);
  }
  if (files.empty()) fail(directory, "expected model*.safetensors, found no such file");

  checkpoint.add_shards(files);
  for (const auto& [name, file] : weight_map) {
    const auto found = checkpoint.entries_->find(name);
    if (found == checkpoint.entries_->end() ||
        found->second.shard->file().path().filename() != fs::path(file))
      fail(directory / file, fmt::format("expected tensor {}, which {} lists there",
                                         quote(name), index.string()));
  }
  checkpoint.find_computed();
  checkpoint.gather();
  return checkpoint;
}

Checkpoint Checkpoint::open_file(const fs::path& file, OpenOptions options) {
  Checkpoint checkpoint;
  checkpoint.directory_ = file;
  checkpoint.options_ = options;
  checkpoint.config_ = std::make_shared<const nlohmann::json>(nlohmann::json::object());
  checkpoint.add_shards({file});
  return checkpoint;
}

void Checkpoint::add_shards(const std::vector<fs::path>& files) {
  auto entries = std::make_shared<std::map<std::string, Entry, std::less<>>>();
  for (const fs::path& file : files) {
    auto shard = Shard::open(file, options_.residency);
    for (std::size_t i = 0; i < shard->tensors().size(); ++i) {
      const TensorInfo& tensor = shard->tensors()[i];
      const auto [place, is_new] = entries->emplace(tensor.name, Entry{shard, i});
      if (!is_new)
        fail(tensor, "is also in " + place->second.shard->file().path().string());
    }
    shards_.push_back(std::move(shard));
  }
  entries_ = std::move(entries);
}

void Checkpoint::find_computed() {
  std::vector<const TensorInfo*> tensors;
  for (const auto& [name, entry] : *entries_)
    tensors.push_back(&entry.shard->tensors()[entry.index]);
  auto found = find_scaled(tensors, *config_);
  if (const auto packed = packed_config(*config_, directory_ / "config.json"))
    std::ranges::move(find_packed(tensors, *packed, options_.packed_as_floats),
                      std::back_inserter(found));
  if (found.empty()) return;
  auto computed = std::make_shared<Computed>();
  for (ComputedTensor& tensor : found) {
    computed->sources.insert(tensor.sources.begin(), tensor.sources.end());
    const std::string name = tensor.info.name;
    computed->by_name.emplace(name, std::move(tensor));
  }
  for (const auto& [name, tensor] : computed->by_name)
    if (entries_->contains(name) && !computed->sources.contains(name))
      fail(tensor.info, "is in the file in two forms");
  computed_ = std::move(computed);
}

const ComputedTensor* Checkpoint::find_computed(std::string_view name) const {
  if (!computed_) return nullptr;
  const auto found = computed_->by_name.find(name);
  return found == computed_->by_name.end() ? nullptr : &found->second;
}

// Tensors of the files and computed ones, without those that computing reads.
std::vector<const TensorInfo*> Checkpoint::ungathered() const {
  std::vector<const TensorInfo*> tensors;
  for (const auto& [name, entry] : *entries_)
    if (!computed_ || !computed_->sources.contains(name))
      tensors.push_back(&entry.shard->tensors()[entry.index]);
  if (computed_)
    for (const auto& [name, tensor] : computed_->by_name)
      tensors.push_back(&tensor.info);
  return tensors;
}

void Checkpoint::gather() {
  auto by_name = gather_experts(ungathered());
  if (by_name.empty()) return;
  auto gathered = std::make_shared<Gathered>();
  for (const auto& [name, tensor] : by_name) {
    if (find(name)) fail(tensor.info, "is in the file in two forms");
    for (const auto& part : tensor.parts) gathered->sources.insert(part.source);
  }
  gathered->by_name = std::move(by_name);
  gathered_ = std::move(gathered);
}

const GatheredTensor* Checkpoint::find_gathered(std::string_view name) const {
  if (!gathered_) return nullptr;
  const auto found = gathered_->by_name.find(std::string(name));
  return found == gathered_->by_name.end() ? nullptr : &found->second;
}

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> names;
  for (const TensorInfo* tensor : ungathered())
    if (!gathered_ || !gathered_->sources.contains(tensor->name))
      names.push_back(tensor->name);
  if (gathered_)
    for (const auto& [name, tensor] : gathered_->by_name) names.push_back(name);
  std::ranges::sort(names);
  return names;
}

const TensorInfo* Checkpoint::find(std::string_view name) const {
  if (const GatheredTensor* gathered = find_gathered(name)) return &gathered->info;
  if (const ComputedTensor* computed = find_computed(name)) return &computed->info;
  if (computed_ && computed_->sources.contains(name)) return nullptr;
  const auto found = entries_->find(name);
  if (found == entries_->end()) return nullptr;
  return &found->second.shard->tensors()[found->second.index];
}

std::string_view Checkpoint::source_of(std::string_view name) const {
  const GatheredTensor* gathered = find_gathered(name);
  OPTIQ_CHECK(!gathered || gathered->is_whole(), "bytes of experts in one piece");
  return gathered ? std::string_view(gathered->parts[0].source) : name;
}

const Checkpoint::Entry& Checkpoint::entry(std::string_view name) const {
  const auto found = entries_->find(name);
  if (found == entries_->end())
    fail(directory_, fmt::format("tensor {} is missing", quote(name)));
  return found->second;
}

const TensorInfo& Checkpoint::info(std::string_view name) const {
  if (const TensorInfo* found = find(name)) return *found;
  fail(directory_, fmt::format("tensor {} is missing", quote(name)));
}

mx::array Checkpoint::computed(const ComputedTensor& tensor) const {
  const TensorInfo& shown = tensor.info;
  mx::array values(mx::allocator::malloc(shown.bytes), shape_of(shown),
                   *mlx_dtype(shown.dtype));
  std::vector<TensorBytes> kept;
  std::vector<std::span<const std::byte>> sources;
  for (const std::string& name : tensor.sources) {
    const Entry& source = entry(name);
    kept.push_back(source.shard->bytes(source.index));
    sources.push_back(kept.back().bytes);
  }
  const std::span bytes(reinterpret_cast<std::byte*>(values.data<char>()), shown.bytes);
  tensor.compute(sources, bytes);
  if (options_.check_finite) require_finite(shown, bytes);
  return values;
}

mx::array Checkpoint::tensor(std::string_view name) const {
  const GatheredTensor* tensor = find_gathered(name);
  return tensor && !tensor->is_whole() ? gathered(*tensor) : piece(name);
}

mx::array Checkpoint::gathered(const GatheredTensor& tensor) const {
  mx::array all(mx::allocator::malloc(tensor.info.bytes), shape_of(tensor.info),
                piece(tensor.parts[0].source).dtype());
  char* to = all.data<char>();
  std::string at;
  std::optional<mx::array> source;
  for (const GatheredTensor::Part& part : tensor.parts) {
    if (part.source != at) source = piece(at = part.source);
    std::memcpy(to, source->data<char>() + part.offset, part.bytes);
    to += part.bytes;
  }
  return all;
}

mx::array Checkpoint::piece(std::string_view name) const {
  const std::string_view source = source_of(name);
  if (const ComputedTensor* found = find_computed(source)) return computed(*found);
  const Entry& found = entry(source);
  const TensorInfo& tensor = found.shard->tensors()[found.index];
  const std::optional<mx::Dtype> dtype = mlx_dtype(tensor.dtype);
  if (!dtype)
    fail(tensor, fmt::format("elements of type {} are not supported",
                             checkpoint::info(tensor.dtype).name));
  mx::Shape shape = shape_of(tensor);
  if (tensor.bytes == 0) return mx::zeros(shape, *dtype);
  const TensorBytes bytes = found.shard->bytes(found.index);
  if (options_.check_finite &&
      (bytes.just_read || options_.residency == Residency::kMapped))
    require_finite(tensor, bytes.bytes);
  return borrowed_array(bytes.bytes.data(), std::move(shape), *dtype, bytes.owner,
                        options_.for_host);
}

mx::array Checkpoint::require(std::string_view name,
                              std::span<const std::int64_t> shape) const {
  const TensorInfo& tensor = info(name);
  if (!std::ranges::equal(tensor.shape, shape))
    fail(tensor, fmt::format("expected shape [{}], found [{}]", fmt::join(shape, ", "),
                             fmt::join(tensor.shape, ", ")));
  return this->tensor(name);
}

mx::array Checkpoint::require(std::string_view name,
                              std::initializer_list<std::int64_t> shape) const {
  return require(name, std::span(shape.begin(), shape.size()));
}

std::span<const std::byte> Checkpoint::mapped_bytes(std::string_view name) const {
  const std::string_view source = source_of(name);
  OPTIQ_CHECK(!find_computed(source), "bytes of a tensor that is computed");
  const Entry& found = entry(source);
  return found.shard->mapped_bytes(found.index);
}

void Checkpoint::release(std::string_view name) const {
  if (const GatheredTensor* tensor = find_gathered(name)) {
    for (const auto& part : tensor->parts)
      if (part.offset == 0) release(part.source);
    return;
  }
  if (const ComputedTensor* tensor = find_computed(name)) {
    for (const std::string& source : tensor->sources) release_stored(source);
    return;
  }
  release_stored(name);
}

void Checkpoint::release_stored(std::string_view name) const {
  const Entry& found = entry(name);
  const TensorInfo& tensor = found.shard->tensors()[found.index];
  found.shard->file().advise_dont_need(tensor.offset, tensor.bytes);
}

void Checkpoint::check_finite(std::string_view name) const {
  require_finite(info(name), mapped_bytes(name));
}

void Checkpoint::check_scales(std::string_view name, QuantMode mode) const {
  const TensorInfo& tensor = info(name);
  const mx::array scales = this->tensor(name);
  if (const auto bad = find_nan_scale(
          {reinterpret_cast<const std::byte*>(scales.data<char>()), scales.nbytes()},
          mode))
    fail(tensor, fmt::format("expected finite scales, found NaN at {}", *bad));
}

std::uint64_t Checkpoint::tensor_bytes() const {
  std::uint64_t sum = 0;
  for (const std::string& name : names()) sum += info(name).bytes;
  return sum;
}

std::vector<fs::path> Checkpoint::files() const {
  std::vector<fs::path> files;
  for (const auto& shard : shards_) files.push_back(shard->file().path());
  return files;
}

std::string Checkpoint::format() const {
  for (const auto& shard : shards_)
    if (const auto found = shard->header().metadata.find("format");
        found != shard->header().metadata.end())
      return found->second;
  return "";
}

}  // namespace optiq::checkpoint
