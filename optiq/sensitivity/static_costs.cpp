#include "optiq/sensitivity/static_costs.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <optional>
#include <stdexcept>

#include "mlx/ops.h"
#include "optiq/quantize/linear_weight.h"

namespace optiq::sensitivity {
namespace {

struct AffineError {
  int bits;
  double group_32, group_64, group_128;
};

constexpr AffineError kAffineErrors[] = {
    {2, 8.71e-2, 1.013e-1, 1.096e-1}, {3, 2.07e-2, 2.67e-2, 3.13e-2},
    {4, 4.80e-3, 6.56e-3, 8.23e-3},   {5, 1.13e-3, 1.59e-3, 2.06e-3},
    {6, 2.73e-4, 3.88e-4, 5.06e-4},   {8, 1.65e-5, 2.36e-5, 3.10e-5},
};

bool contains(std::string_view name, std::string_view part) {
  return name.find(part) != std::string_view::npos;
}

bool ends_with_component(std::string_view name, std::string_view component) {
  return name == component ||
         (name.ends_with(component) && name[name.size() - component.size() - 1] == '.');
}

/// The n of "layers.n." in a module's path.
std::optional<int> block_of(std::string_view module) {
  constexpr std::string_view kLayers = "layers.";
  for (std::size_t at = module.find(kLayers); at != std::string_view::npos;
       at = module.find(kLayers, at + 1)) {
    if (at > 0 && module[at - 1] != '.') continue;
    std::size_t end = at + kLayers.size();
    int block = 0, digits = 0;
    for (; end < module.size() &&
           std::isdigit(static_cast<unsigned char>(module[end])) && digits < 6;
         ++end, ++digits)
      block = 10 * block + (module[end] - '0');
    if (digits > 0 && (end == module.size() || module[end] == '.')) return block;
  }
  return std::nullopt;
}

bool is_router(std::string_view module) {
  return ends_with_component(module, "mlp.gate") || contains(module, "router") ||
         contains(module, "shared_expert_gate");
}

bool is_shared_expert(std::string_view module) {
  return contains(module, "shared_expert");
}

bool is_expert(std::string_view module) {
  return !is_shared_expert(module) && !is_router(module) &&
         (contains(module, "experts") || contains(module, "switch_mlp"));
}

}  // namespace

double structural_priority(std::string_view module, int n_blocks) {
  const std::optional<int> block = block_of(module);
  if (!block) return 1.0;
  const int from_edge = std::min(*block, n_blocks - 1 - *block);
  double priority = 0.9;
  if (from_edge == 1) priority = 0.65;
  if (from_edge > 1)
    priority = 0.30 + 0.15 * std::abs(2.0 * *block / (n_blocks - 1) - 1);
  if (contains(module, "attn") || contains(module, "attention")) priority += 0.30;
  if (is_router(module)) priority += 0.40;
  if (is_expert(module)) priority -= 0.10;
  return priority;
}

bool is_protected(std::string_view module, int n_blocks) {
  const std::optional<int> block = block_of(module);
  return !block || *block <= 0 || *block >= n_blocks - 1 || is_router(module) ||
         is_shared_expert(module);
}

double relative_squared_error(const QuantSpec& spec) {
  if (spec.bits >= 16) return 0;
  if (!is_supported(spec))
    throw std::invalid_argument(
        fmt::format("[relative_squared_error] no such format: {}", describe(spec)));
  switch (spec.mode) {
    case QuantMode::kMxfp4:
      return 1.25e-2;
    case QuantMode::kMxfp8:
      return 7.1e-4;
    case QuantMode::kNvfp4:
      return 7.7e-3;
    case QuantMode::kAffine:
      break;
  }
  const auto* row = std::ranges::find(kAffineErrors, spec.bits, &AffineError::bits);
  return spec.group_size == 32   ? row->group_32
         : spec.group_size == 64 ? row->group_64
                                 : row->group_128;
}

double relative_squared_error(const kernels::LinearWeight& w, const QuantSpec& spec,
                              quantize::Search search) {
  constexpr std::int64_t kValues = 1 << 20;
  const int N = w.output_dim(), K = w.input_dim();
  kernels::LinearWeight sample = w;
  if (!w.quantized()) {
    const int wanted = std::max(static_cast<int>(kValues / K), 16);
    const int stride = std::max(1, N / wanted);
    sample.weight = mlx::core::slice(w.weight, {0, 0}, {N, K}, {stride, 1});
  }
  double squares = 0;
  quantize::for_each_row_block(sample, [&](int, std::span<const float> values) {
    for (float value : values) squares += static_cast<double>(value) * value;
  });
  return quantize::encode(sample, spec, {}, search).error / std::max(squares, 1e-30);
}

double static_cost(std::string_view module, int n_blocks, const QuantSpec& spec) {
  return structural_priority(module, n_blocks) * relative_squared_error(spec);
}

}  // namespace optiq::sensitivity
