#include "optiq/sensitivity/kv/kv_sensitivity.h"

#include <fmt/format.h>

#include <algorithm>

#include "optiq/kernels/kv_page/kv_layout.h"
#include "optiq/sensitivity/swaps.h"

namespace optiq::sensitivity {
namespace {

constexpr int kSwapRounds = 3;

// `part` of a layer in `format`, what else there is as it was.
void set(cache::LayerFormats& formats, KvPart part, const KvFormat& format) {
  if (part != KvPart::kValues) formats.k = format;
  if (part != KvPart::kKeys) formats.v = format_of_values(format);
}

std::int64_t part_bytes(const KvSensitivity& part, const KvFormat& format) {
  const KvLayout layout =
      make_kv_layout(part.n_kv_heads, part.head_dim, format, format_of_values(format));
  const std::int64_t head = part.part == KvPart::kKeysAndValues ? layout.head_bytes
                            : part.part == KvPart::kKeys        ? layout.k.bytes
                                                                : layout.v.bytes;
  return part.n_kv_heads * head;
}

const char* name(KvPart part) {
  return part == KvPart::kKeysAndValues ? "keys and values"
         : part == KvPart::kKeys        ? "keys"
                                        : "values";
}

}  // namespace

KvPlan uniform_kv_plan(const std::vector<cache::LayerShape>& shapes,
                       const KvFormat& format) {
  KvPlan plan;
  for (std::size_t i = 0; i < shapes.size(); ++i)
    if (shapes[i].n_kv_heads > 0)
      plan[static_cast<int>(i)] = {format, format_of_values(format)};
  return plan;
}

cache::CacheOptions with_plan(cache::CacheOptions base, const KvPlan& plan) {
  for (const auto& [layer, formats] : plan) base.layers.push_back({layer, formats, ""});
  return base;
}

std::int64_t page_bytes(const std::vector<cache::LayerShape>& shapes,
                        const KvPlan& plan) {
  std::int64_t bytes = 0;
  for (const auto& [layer, formats] : plan) {
    const cache::LayerShape& shape = shapes[static_cast<std::size_t>(layer)];
    bytes +=
        make_kv_layout(shape.n_kv_heads, shape.head_dim, formats.k, formats.v).bytes();
  }
  return bytes;
}

double average_bits(const std::vector<cache::LayerShape>& shapes, const KvPlan& plan) {
  double bits = 0, values = 0;
  for (const auto& [layer, formats] : plan) {
    const cache::LayerShape& shape = shapes[static_cast<std::size_t>(layer)];
    const double n = static_cast<double>(shape.n_kv_heads) * shape.head_dim;
    bits += n * (formats.k.bits + formats.v.bits);
    values += 2 * n;
  }
  return bits / values;
}

std::vector<KvSensitivity> measure_kv(const models::Model& model, CacheMeter& meter,
                                      const KvMeasureOptions& options) {
  const auto& shapes = model.layer_shapes();
  const KvFormat in_float = kv_float(options.cache.float_type);
  std::vector<KvSensitivity> result;
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    if (shapes[i].n_kv_heads == 0) continue;
    const auto parts = options.separate_kv ? std::vector{KvPart::kKeys, KvPart::kValues}
                                           : std::vector{KvPart::kKeysAndValues};
    for (const KvPart part : parts)
      result.push_back(
          {static_cast<int>(i), part, shapes[i].n_kv_heads, shapes[i].head_dim, {}});
  }
  const auto total = static_cast<std::int64_t>(result.size() * options.formats.size());
  std::int64_t done = 0;
  for (KvSensitivity& part : result) {
    meter.advance_to(part.layer);
    for (const KvFormat& format : options.formats) {
      if (options.progress) options.progress(done, total);
      cache::LayerFormats formats{in_float, in_float};
      set(formats, part.part, format);
      const Divergence d =
          meter.measure(with_plan(options.cache, {{part.layer, formats}}));
      part.costs.push_back(
          {format, part_bytes(part, format), d.mean, d.standard_error()});
      ++done;
    }
  }
  if (options.progress) options.progress(done, total);
  return result;
}

std::vector<Item> kv_items(const std::vector<KvSensitivity>& sensitivities) {
  std::vector<Item> items;
  for (const KvSensitivity& part : sensitivities) {
    Item item{
        fmt::format("layer {} {}", part.layer, name(part.part)), part.values(), {}, 1};
    for (const KvCost& cost : part.costs) {
      double kl = cost.kl;
      if (!item.choices.empty()) kl = std::min(kl, 0.999 * item.choices.back().cost);
      item.choices.push_back({cost.format, cost.page_bytes, kl});
    }
    items.push_back(std::move(item));
  }
  return items;
}

KvPlan plan_of(const std::vector<KvSensitivity>& sensitivities,
               const Allocation& allocation) {
  KvPlan plan;
  for (std::size_t i = 0; i < sensitivities.size(); ++i) {
    const KvSensitivity& part = sensitivities[i];
    set(plan[part.layer], part.part,
        part.costs[static_cast<std::size_t>(allocation.choices[i])].format);
  }
  return plan;
}

JointPlan refine_kv(const std::vector<KvSensitivity>& sensitivities,
                    Allocation allocation, CacheMeter& meter,
                    const cache::CacheOptions& base, std::size_t n_swaps) {
  const std::vector<Item> items = kv_items(sensitivities);
  const auto joint = [&](const KvPlan& plan) {
    return meter.measure(with_plan(base, plan)).mean;
  };
  meter.restart();
  JointPlan best{plan_of(sensitivities, allocation), 0};
  best.kl = joint(best.plan);
  for (int round = 0; round < kSwapRounds; ++round) {
    bool improved = false;
    for (const Swap& swap : swap_candidates(allocation, items, n_swaps)) {
      const Allocation next = apply(allocation, items, swap);
      JointPlan contender{plan_of(sensitivities, next), 0};
      contender.kl = joint(contender.plan);
      if (contender.kl >= best.kl) continue;
      best = std::move(contender);
      allocation = next;
      improved = true;
      break;  // the others belong to the allocation before
    }
    if (!improved) break;
  }
  return best;
}

}  // namespace optiq::sensitivity
