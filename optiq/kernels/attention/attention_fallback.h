// Attention in plain MLX operations: the definition that the kernel is held to.
#pragma once
#include <span>
#include <vector>

#include "optiq/kernels/attention/attention_primitive.h"

namespace optiq::kernels {

/// attention() on q, k, v, and the gate if `has_gate`. Gives y.
std::vector<mx::array> attention_fallback(const std::vector<mx::array>& inputs,
                                          std::span<const Segment> segments,
                                          float scale, int window, bool causal,
                                          bool has_gate);

/// paged_attention() on q, k, v, and the gate if `has_gate`: evaluates them, appends to
/// the pages, and attends to what the pages hold, decoded and in the space of the
/// inputs. It has no gradient. Gives y.
std::vector<mx::array> paged_fallback(const std::vector<mx::array>& inputs,
                                      std::span<const Segment> segments,
                                      std::span<const PagedKv> pages, float scale,
                                      int window, bool causal, bool has_gate);

}  // namespace optiq::kernels
