// How many bits each tensor gets, so that the whole fits a budget.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "optiq/kernels/kv_page/kv_format.h"
#include "optiq/kernels/quant_mode.h"

namespace optiq::sensitivity {

/// How an item is stored: a weight matrix, or the keys or values of a layer. A dense
/// 16-bit choice is a spec with 16 bits.
using Spec = std::variant<QuantSpec, KvFormat>;
int bits_of(const Spec& spec);

/// One way to store an item.
struct Choice {
  Spec spec;
  std::int64_t bytes = 0;  // scales and biases included
  double cost = 0;         // KL(full || only this item quantized), nats; may be noisy
};

/// A tensor, or several that share one choice; or what a layer caches of a token.
struct Item {
  std::string name;
  std::int64_t params = 0;  // values
  std::vector<Choice> choices;
  double weight = 1;  // multiplies every cost: protection
};

/// Mean bits of the quantized weights, sum(bits params) / sum(params): scales and
/// biases are not counted.
struct BitsPerWeight {
  double value;
};
/// Bytes of all items together.
struct TotalBytes {
  std::int64_t value;
};
using Budget = std::variant<BitsPerWeight, TotalBytes>;

/// Items of an Allocation are counted in these: bits x params, or bytes.
enum class BudgetUnit : std::uint8_t { kBits, kBytes };

/// The unit that the budget is counted in, and what a choice costs in it.
BudgetUnit unit_of(const Budget& budget);
std::int64_t units(const Item& item, const Choice& choice, BudgetUnit unit);

struct Allocation {
  std::vector<int> choices;  // for each item, the index of its choice
  BudgetUnit unit = BudgetUnit::kBits;
  std::int64_t used = 0;   // units
  std::int64_t limit = 0;  // units
  double cost = 0;         // sum of weight x cost
  double lower_bound = 0;  // no allocation within the limit costs less
};

/// Chooses for every item so that the summed weighted cost is small within the budget.
///
/// Never above the limit; and no other choice of a single item that lowers the cost
/// would still fit. Where costs are not monotone, a wider choice that costs more is
/// never taken. Equal inputs give equal allocations, on every machine.
///
/// Throws    std::invalid_argument for a budget below the smallest possible, which the
///           message states; for empty items, counts that are not positive, and numbers
///           that are not finite.
/// Cost      O(S log S) for S choices in all, and a search of at most some hundred
///           milliseconds where few items leave a gap above 0.1 %; no model is run.
/// Source    greedy on the lower convex hull, the linear relaxation of the
///           multiple-choice knapsack (Sinha and Zoltners 1979); docs/decisions/
///           allocation.md.
Allocation allocate(std::span<const Item> items, const Budget& budget);

/// Items that must share one choice, merged.
struct TiedItems {
  std::vector<Item> items;
  std::vector<std::vector<std::size_t>> members;  // for each, the indices it came from
};

/// Merges each group of indices into one item named after its first: the specs that all
/// members offer, with bytes and weighted costs summed. Other items stay, all in the
/// order of their first member.
///
/// Throws    std::invalid_argument for an index out of range or in two groups, and for
/// a
///           group without a common spec.
TiedItems tie(std::span<const Item> items,
              std::span<const std::vector<std::size_t>> groups);

}  // namespace optiq::sensitivity
