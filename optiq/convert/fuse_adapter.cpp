#include "optiq/convert/fuse_adapter.h"

#include <fmt/format.h>

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/base/signal.h"
#include "optiq/checkpoint/checkpoint.h"
#include "optiq/convert/other_files.h"
#include "optiq/quantize/linear_weight.h"

namespace optiq::convert {
namespace {

namespace fs = std::filesystem;
namespace mx = mlx::core;
using checkpoint::DataType;
using checkpoint::TensorEntry;

mx::array fused(const kernels::LinearWeight& w, const kernels::LowRank& f) {
  mx::array sum = kernels::dequantized(w) +
                  f.scale * mx::matmul(mx::transpose(mx::astype(f.b, mx::float32)),
                                       mx::astype(f.a, mx::float32));
  if (f.gain) sum = mx::reshape(*f.gain, {-1, 1}) * sum;
  return sum;
}

struct Named {
  std::string name;
  mx::array value;
};

DataType type_of(const mx::array& x) {
  return x.dtype() == mx::uint32     ? DataType::kU32
         : x.dtype() == mx::uint8    ? DataType::kU8
         : x.dtype() == mx::float16  ? DataType::kF16
         : x.dtype() == mx::bfloat16 ? DataType::kBF16
                                     : DataType::kF32;
}

// The tensors of a changed layer.
std::vector<Named> changed(const models::LinearModule& module,
                           const kernels::LowRank& factors, bool requantize) {
  const kernels::LinearWeight& w = module.weight;
  const mx::array sum = fused(w, factors);
  const auto dense = [&](mx::Dtype type) {
    return std::vector<Named>{{module.path + ".weight", mx::astype(sum, type)}};
  };
  if (!w.quantized()) return dense(w.weight.dtype());
  if (!requantize) return dense(mx::bfloat16);
  // Scales are stored in the type that the original's are.
  const mx::Dtype scales = mx::issubdtype(w.scales->dtype(), mx::floating)
                               ? w.scales->dtype()
                               : mx::bfloat16;
  kernels::LinearWeight floats{mx::astype(sum, scales), {}, {}, {}, {}};
  mx::eval(floats.weight);
  const auto coded = quantize::as_linear_weight(
      quantize::encode(floats, w.spec, {}, quantize::Search::kSearch), std::nullopt);
  std::vector<Named> tensors{{module.path + ".weight", coded.weight},
                             {module.path + ".scales", *coded.scales}};
  if (coded.biases) tensors.push_back({module.path + ".biases", *coded.biases});
  return tensors;
}

std::int64_t shape_bytes(const TensorEntry& entry) {
  std::int64_t bits = checkpoint::info(entry.dtype).bits;
  for (const std::int64_t n : entry.shape) bits *= n;
  return bits / 8;
}

// What one weight file of the copy holds.
struct File {
  std::vector<TensorEntry> entries;
  std::vector<std::string> copied;  // tensors
  std::vector<const models::LinearModule*> changed;
};

// The tensors that a changed layer will have: shapes are known without the values, of
// which one layer's are made at a time.
std::vector<TensorEntry> entries_of(const models::LinearModule& module,
                                    bool requantize) {
  const kernels::LinearWeight& w = module.weight;
  const std::int64_t N = w.output_dim(), K = w.input_dim();
  if (!w.quantized() || !requantize)
    return {{module.path + ".weight",
             w.quantized() ? DataType::kBF16 : type_of(w.weight),
             {N, K}}};
  const std::int64_t groups = K / w.spec.group_size;
  std::vector<TensorEntry> entries{
      {module.path + ".weight", DataType::kU32, {N, K * w.spec.bits / 32}},
      {module.path + ".scales", type_of(*w.scales), {N, groups}}};
  if (w.biases)
    entries.push_back({module.path + ".biases", type_of(*w.biases), {N, groups}});
  return entries;
}

// The changed layers by the names of all tensors that they have in the source.
using Owners = std::map<std::string, const models::LinearModule*>;

Owners owners_of(models::Model& model, const models::Adapter& adapter) {
  Owners owners;
  for (const models::LinearModule* module : model.linears())
    if (adapter.find(module->name))
      for (const char* part : {".weight", ".scales", ".biases"})
        owners[module->path + part] = module;
  return owners;
}

File planned(const checkpoint::Checkpoint& source, const fs::path& file,
             const Owners& owners, bool requantize) {
  File plan;
  for (const std::string& name : source.names()) {
    const auto& info = source.info(name);
    if (info.file != file) continue;
    const auto owner = owners.find(name);
    if (owner == owners.end()) {
      plan.entries.push_back({name, info.dtype, info.shape});
      plan.copied.push_back(name);
    } else if (name.ends_with(".weight")) {
      plan.changed.push_back(owner->second);
    }
  }
  for (const models::LinearModule* module : plan.changed)
    for (TensorEntry& entry : entries_of(*module, requantize))
      plan.entries.push_back(std::move(entry));
  return plan;
}

void write_file(const checkpoint::Checkpoint& source, const File& plan,
                const models::Adapter& adapter, bool requantize,
                const fs::path& target) {
  checkpoint::SafetensorsWriter writer(target, plan.entries,
                                       {{"format", source.format()}});
  for (const std::string& name : plan.copied) {
    throw_if_interrupted();
    writer.write(name, source.mapped_bytes(name));
    source.release(name);
  }
  for (const models::LinearModule* module : plan.changed) {
    throw_if_interrupted();
    for (const Named& tensor :
         changed(*module, *adapter.find(module->name), requantize)) {
      const mx::array rows = mx::contiguous(tensor.value);
      mx::eval(rows);
      writer.write(tensor.name, {reinterpret_cast<const std::byte*>(rows.data<char>()),
                                 rows.nbytes()});
    }
  }
  writer.finish();
}

// Layers that became dense are no longer quantized by the config either.
nlohmann::json written_config(const checkpoint::Checkpoint& source,
                              models::Model& model, const models::Adapter& adapter,
                              bool requantize) {
  nlohmann::json config = source.config();
  if (requantize) return config;
  for (const char* key : {"quantization", "quantization_config"})
    if (config.contains(key) && config[key].is_object())
      for (const models::LinearModule* module : model.linears())
        if (adapter.find(module->name) && module->weight.quantized())
          config[key][module->path] = false;
  return config;
}

}  // namespace

std::int64_t fuse_adapter(const fs::path& source, models::Model& model,
                          const models::Adapter& adapter, const FuseOptions& options,
                          AtomicDirectory& directory) {
  const auto checkpoint = checkpoint::Checkpoint::open(
      source, {checkpoint::Residency::kMapped, /*check_finite=*/false});
  const Owners owners = owners_of(model, adapter);
  nlohmann::json weight_map = nlohmann::json::object();
  std::int64_t bytes = 0, total = 0;
  for (const fs::path& file : checkpoint.files()) {
    const File plan = planned(checkpoint, file, owners, options.requantize);
    const fs::path target = directory.path() / file.filename();
    write_file(checkpoint, plan, adapter, options.requantize, target);
    for (const TensorEntry& entry : plan.entries) {
      weight_map[entry.name] = file.filename().string();
      total += shape_bytes(entry);
    }
    bytes += static_cast<std::int64_t>(fs::file_size(target));
  }
  const auto write_json = [&](const char* name, const nlohmann::json& value) {
    write_file_atomic(directory.path() / name, value.dump(4) + "\n");
  };
  if (checkpoint.files().size() > 1)
    write_json("model.safetensors.index.json",
               {{"metadata", {{"total_size", total}}}, {"weight_map", weight_map}});
  copy_other_files(source, directory.path());
  write_json("config.json",
             written_config(checkpoint, model, adapter, options.requantize));
  directory.commit();
  return bytes;
}

}  // namespace optiq::convert
