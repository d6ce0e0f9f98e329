// Changes of an allocation that keep its budget, for verification by joint measurement.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "optiq/sensitivity/allocate.h"

namespace optiq::sensitivity {

/// One item's change of choice.
struct Change {
  std::size_t item;
  int from;
  int to;
};

/// One item up, one or two down, within the allocation's limit.
struct Swap {
  std::vector<Change> changes;  // the item that goes up first
  double predicted_gain;        // fall of the summed cost; negative for a loss
  std::int64_t extra_units;     // may be negative
};

/// The n swaps with the largest predicted gain, largest first, at most four for each
/// upgrade of an item.
///
/// At an optimum every predicted gain is zero or less. Single-item costs are noisy and
/// blind to interactions, so the swaps with the smallest predicted loss are those whose
/// joint measurement is most likely to disagree.
///
/// Throws    std::invalid_argument if the allocation does not belong to the items.
/// Cost      O(S^2) for S choices in all.
std::vector<Swap> swap_candidates(const Allocation& allocation,
                                  std::span<const Item> items, std::size_t n);

/// The allocation after a swap; its lower bound stays.
Allocation apply(const Allocation& allocation, std::span<const Item> items,
                 const Swap& swap);

}  // namespace optiq::sensitivity
