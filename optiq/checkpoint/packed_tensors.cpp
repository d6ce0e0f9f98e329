#include "optiq/checkpoint/packed_tensors.h"

#include <fmt/format.h>

#include <cstring>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "optiq/base/error.h"
#include "optiq/checkpoint/packed_matrix.h"
#include "optiq/checkpoint/quote.h"
#include "optiq/kernels/fp_values.h"

namespace optiq::checkpoint {
namespace {

using Bytes = std::span<const std::span<const std::byte>>;
using Shape = std::vector<std::int64_t>;

[[noreturn]] void fail(const TensorInfo& tensor, const std::string& what) {
  throw CheckpointError(
      fmt::format("{}: tensor {}: {}", tensor.file.string(), quote(tensor.name), what));
}

void require(const TensorInfo& tensor, DataType type, const Shape& shape) {
  if (tensor.dtype != type || tensor.shape != shape)
    fail(tensor, fmt::format("expected {}, found {}", describe(type, shape),
                             describe(tensor.dtype, tensor.shape)));
}

class Tensors {
 public:
  explicit Tensors(const std::vector<const TensorInfo*>& tensors) {
    for (const TensorInfo* tensor : tensors) by_name_.emplace(tensor->name, tensor);
  }

  const TensorInfo* find(const std::string& name) const {
    const auto found = by_name_.find(name);
    return found == by_name_.end() ? nullptr : found->second;
  }

  const TensorInfo& need(const TensorInfo& beside, const std::string& name) const {
    const TensorInfo* found = find(name);
    if (!found) fail(beside, fmt::format("expected {} beside it", quote(name)));
    return *found;
  }

 private:
  std::map<std::string_view, const TensorInfo*> by_name_;
};

// What computing the tensors of one matrix needs to know.
struct Module {
  PackedConfig config;
  PackedShape shape;
  TensorInfo codes;
  DataType scale_type;
  std::vector<std::string> sources;  // codes, scales, then those that are there
  bool has_zeros = false, has_order = false;

  PackedMatrix matrix(Bytes sources_bytes) const {
    PackedBytes bytes{sources_bytes[0], sources_bytes[1], {}, {}};
    if (has_zeros) bytes.zeros = sources_bytes[2];
    if (has_order) bytes.order = sources_bytes[has_zeros ? 3 : 2];
    return {config, shape, *float_type(scale_type), bytes};
  }

  ComputedTensor tensor(const std::string& name, DataType type,
                        Shape dimensions) const {
    ComputedTensor result{codes, sources, {}};
    result.info.name = name;
    result.info.dtype = type;
    result.info.bytes = static_cast<std::uint64_t>(info(type).bits / 8);
    for (const std::int64_t n : dimensions) result.info.bytes *= n;
    result.info.shape = std::move(dimensions);
    return result;
  }
};

Module read_affine(const Tensors& tensors, const TensorInfo& codes,
                   const std::string& path, const PackedConfig& config) {
  const bool compressed = config.form == PackedForm::kCompressed;
  const std::int64_t bits = config.spec.bits;
  const TensorInfo& scales =
      tensors.need(codes, path + (compressed ? ".weight_scale" : ".scales"));
  if (codes.dtype != DataType::kI32 || codes.shape.size() != 2 || codes.bytes == 0)
    fail(codes,
         "expected a matrix of I32, found " + describe(codes.dtype, codes.shape));
  std::int64_t N = 0, K = 0;
  switch (config.form) {
    case PackedForm::kGptq:
      K = codes.shape[0] * 32 / bits;
      N = codes.shape[1];
      break;
    case PackedForm::kAwq:
      K = codes.shape[0];
      N = codes.shape[1] * 8;
      break;
    case PackedForm::kCompressed:
      N = codes.shape[0];
      K = codes.shape[1] * 32 / bits;
  }
  const std::int64_t group = config.spec.group_size > 0 ? config.spec.group_size : K;
  if (K * bits % 32 != 0 || K % group != 0)
    fail(codes, fmt::format("expected rows of whole groups of {} codes of {} bits, "
                            "found {} codes",
                            group, bits, K));
  const std::int64_t G = K / group;
  if (!float_type(scales.dtype))
    fail(scales,
         "expected scales in float, found " + describe(scales.dtype, scales.shape));
  require(scales, scales.dtype, compressed ? Shape{N, G} : Shape{G, N});

  Module module{config, {N, K, G}, codes, scales.dtype, {codes.name, scales.name}};
  const std::int64_t packed_rows = (N * bits + 31) / 32;
  const std::string zeros_name = path + (compressed ? ".weight_zero_point" : ".qzeros");
  if (const TensorInfo* zeros = tensors.find(zeros_name)) {
    require(*zeros, DataType::kI32,
            compressed ? Shape{packed_rows, G} : Shape{G, packed_rows});
    module.sources.push_back(zeros->name);
    module.has_zeros = true;
  }
  const std::string order_name = path + (compressed ? ".weight_g_idx" : ".g_idx");
  if (const TensorInfo* order = tensors.find(order_name)) {
    require(*order, DataType::kI32, {K});
    module.sources.push_back(order->name);
    module.has_order = true;
  }
  // Nothing that the other shapes do not say.
  if (const TensorInfo* shape = tensors.find(path + ".weight_shape"))
    module.sources.push_back(shape->name);
  return module;
}

void add_affine(const Module& module, const std::string& path, bool as_floats,
                std::vector<ComputedTensor>& all) {
  const auto [N, K, G] = module.shape;
  const auto add = [&](const char* name, DataType type, Shape shape, auto write) {
    all.push_back(module.tensor(path + name, type, std::move(shape)));
    all.back().compute = [module, write](Bytes sources, std::span<std::byte> values) {
      write(module, module.matrix(sources), values);
    };
  };
  if (as_floats) {
    add(".weight", module.scale_type, {N, K},
        [](const Module& of, const PackedMatrix& matrix, std::span<std::byte> values) {
          if (!matrix.groups_in_range())
            fail(of.codes, fmt::format("its columns are in groups of their own order: "
                                       "expected groups below {}",
                                       of.shape.G));
          matrix.write_values(values);
        });
    return;
  }
  add(".weight", DataType::kU32, {N, K * module.config.spec.bits / 32},
      [](const Module& of, const PackedMatrix& matrix, std::span<std::byte> values) {
        if (!matrix.groups_are_neighbours())
          fail(of.codes,
               "expected groups of neighbouring columns, since config.json does not "
               "say desc_act; found columns in another order");
        matrix.write_codes(
            {reinterpret_cast<std::uint32_t*>(values.data()), values.size() / 4});
      });
  add(".scales", module.scale_type, {N, G},
      [](const Module&, const PackedMatrix& matrix, std::span<std::byte> values) {
        matrix.write_scales(values);
      });
  add(".biases", module.scale_type, {N, G},
      [](const Module&, const PackedMatrix& matrix, std::span<std::byte> values) {
        matrix.write_biases(values);
      });
}

// The bytes of "mxfp4-pack-quantized" are those of MLX's mxfp4: the first of two codes
// in the low half of a byte, exponents with a bias of 127.
void add_mxfp4(const Tensors& tensors, const TensorInfo& codes, const std::string& path,
               const PackedConfig& config, bool as_floats,
               std::vector<ComputedTensor>& all) {
  const TensorInfo& scales = tensors.need(codes, path + ".weight_scale");
  if (codes.dtype != DataType::kU8 || codes.shape.size() != 2 ||
      codes.shape[1] % 16 != 0)
    fail(codes, "expected a matrix of U8 with 16 bytes a group, found " +
                    describe(codes.dtype, codes.shape));
  const std::int64_t N = codes.shape[0], K = codes.shape[1] * 2, G = K / 32;
  require(scales, DataType::kU8, {N, G});
  const Module module{
      config, {N, K, G}, codes, scales.dtype, {codes.name, scales.name}};
  const auto copy = [](std::size_t source) {
    return [source](Bytes sources, std::span<std::byte> values) {
      std::memcpy(values.data(), sources[source].data(), values.size());
    };
  };
  if (!as_floats) {
    all.push_back(module.tensor(path + ".weight", DataType::kU32, {N, K / 8}));
    all.back().compute = copy(0);
    all.push_back(module.tensor(path + ".scales", DataType::kU8, {N, G}));
    all.back().compute = copy(1);
    return;
  }
  all.push_back(module.tensor(path + ".weight", DataType::kBF16, {N, K}));
  all.back().compute = [N, K](Bytes sources, std::span<std::byte> values) {
    auto* const to = reinterpret_cast<std::uint16_t*>(values.data());
    for (std::int64_t at = 0; at < N * K; ++at) {
      const auto pair = static_cast<std::uint8_t>(sources[0][at / 2]);
      const int code = at % 2 == 0 ? pair & 15 : pair >> 4;
      const auto exponent = static_cast<std::uint8_t>(sources[1][at / 32]);
      to[at] = float_to_bf16(
          static_cast<float>(kE2m1Values[code] * e8m0_to_double(exponent)));
    }
  };
}

}  // namespace

std::vector<ComputedTensor> find_packed(const std::vector<const TensorInfo*>& tensors,
                                        const PackedConfig& config, bool as_floats) {
  const Tensors by_name(tensors);
  const std::string_view suffix =
      config.form == PackedForm::kCompressed ? ".weight_packed" : ".qweight";
  std::vector<ComputedTensor> found;
  for (const TensorInfo* tensor : tensors) {
    if (!tensor->name.ends_with(suffix)) continue;
    const std::string path =
        tensor->name.substr(0, tensor->name.size() - suffix.size());
    if (config.spec.mode == QuantMode::kMxfp4)
      add_mxfp4(by_name, *tensor, path, config, as_floats, found);
    else
      add_affine(read_affine(by_name, *tensor, path, config), path,
                 as_floats || !config.has_mlx_form(), found);
  }
  return found;
}

}  // namespace optiq::checkpoint
