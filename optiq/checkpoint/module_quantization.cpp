// The true format of a module, from the shapes of its tensors.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <vector>

#include "optiq/base/error.h"
#include "optiq/checkpoint/checkpoint.h"
#include "optiq/checkpoint/quantization_config.h"
#include "optiq/checkpoint/quote.h"

namespace optiq::checkpoint {
namespace {

class Module {
 public:
  Module(const Checkpoint& checkpoint, std::string_view path)
      : path_(path),
        weight_(checkpoint.info(path_ + ".weight")),
        scales_(checkpoint.info(path_ + ".scales")),
        biases_(checkpoint.find(path_ + ".biases")) {}

  [[noreturn]] void fail(const std::string& what) const {
    throw CheckpointError(fmt::format("{}: module {}: {} (weight {}, scales {})",
                                      weight_.file.string(), quote(path_), what,
                                      describe(weight_.dtype, weight_.shape),
                                      describe(scales_.dtype, scales_.shape)));
  }

  void check_tensors() const {
    if (weight_.dtype != DataType::kU32) fail("expected packed weights of type U32");
    if (weight_.shape.size() < 2 || scales_.shape.size() != weight_.shape.size() ||
        !std::equal(weight_.shape.begin(), weight_.shape.end() - 1,
                    scales_.shape.begin()))
      fail("expected weight and scales with the same rows");
    if (weight_.bytes == 0 || scales_.bytes == 0) fail("expected weights, found none");
    const bool float_scales = scales_.dtype == DataType::kF16 ||
                              scales_.dtype == DataType::kBF16 ||
                              scales_.dtype == DataType::kF32;
    if (!float_scales && scales_.dtype != DataType::kU8)
      fail("expected scales of type F32, F16, BF16 or U8");
    if (float_scales && biases_ == nullptr) fail("expected biases, they are missing");
    if (!float_scales && biases_ != nullptr)
      fail("expected no biases beside U8 scales");
    if (biases_ != nullptr &&
        (biases_->shape != scales_.shape || biases_->dtype != scales_.dtype))
      fail(fmt::format("expected biases like scales, found {}",
                       describe(biases_->dtype, biases_->shape)));
  }

  // K if the spec has these shapes, else 0.
  std::int64_t columns_if(const QuantSpec& spec) const {
    if (info(spec.mode).float_scales != (scales_.dtype != DataType::kU8)) return 0;
    const std::int64_t columns = scales_.shape.back() * spec.group_size;
    return weight_.shape.back() * 32 == columns * spec.bits ? columns : 0;
  }

  std::vector<QuantSpec> fitting(std::int64_t columns) const {
    std::vector<QuantSpec> specs;
    for (const QuantModeInfo& row : quant_modes())
      for (const int bits : row.bits)
        for (const int group_size : row.group_sizes) {
          const QuantSpec spec{row.mode, bits, group_size};
          const std::int64_t found = columns_if(spec);
          if (found != 0 && (columns == 0 || columns == found)) specs.push_back(spec);
        }
    return specs;
  }

  std::int64_t rows() const {
    std::int64_t rows = 1;
    for (std::size_t i = 0; i + 1 < weight_.shape.size(); ++i) rows *= weight_.shape[i];
    return rows;
  }

 private:
  std::string path_;
  const TensorInfo& weight_;
  const TensorInfo& scales_;
  const TensorInfo* biases_;
};

std::string list(const std::vector<QuantSpec>& specs) {
  std::vector<std::string> texts;
  for (const QuantSpec& spec : specs) texts.push_back(describe(spec));
  return fmt::format("{}", fmt::join(texts, " or "));
}

}  // namespace

std::optional<QuantizedModule> module_quantization(const Checkpoint& checkpoint,
                                                   const Quantization* quantization,
                                                   std::string_view module_path,
                                                   std::int64_t columns) {
  const std::string path(module_path);
  const bool is_named =
      quantization != nullptr && quantization->overrides.contains(path);
  const bool has_scales = checkpoint.contains(path + ".scales");
  if (!has_scales) {
    if (is_named && quantization->lookup(path))
      throw CheckpointError(
          fmt::format("{}: module {}: config.json says {}, but tensor {} is missing",
                      checkpoint.directory().string(), quote(path),
                      describe(*quantization->lookup(path)), quote(path + ".scales")));
    return std::nullopt;
  }
  const Module module(checkpoint, path);
  module.check_tensors();
  if (quantization == nullptr)
    module.fail("has scales, but config.json has no 'quantization'");
  const std::vector<QuantSpec> fitting = module.fitting(columns);
  if (fitting.empty())
    module.fail(columns == 0
                    ? std::string("the shapes fit no quantized format")
                    : fmt::format("the shapes fit no format of {} columns", columns));

  const std::optional<QuantSpec> said = quantization->lookup(path);
  const bool fits =
      said && std::find(fitting.begin(), fitting.end(), *said) != fitting.end();
  if (is_named && !fits)
    module.fail(fmt::format("config.json says {}, the shapes say {}",
                            said ? describe(*said) : "not quantized", list(fitting)));
  if (!fits && fitting.size() > 1)
    module.fail(fmt::format("config.json says {}, the shapes {}", describe(*said),
                            list(fitting)));
  const QuantSpec spec = fits ? *said : fitting.front();
  return QuantizedModule{spec, module.rows(), module.columns_if(spec)};
}

}  // namespace optiq::checkpoint
