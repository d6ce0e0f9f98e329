#include "optiq/kernels/dispatch_tape.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <unordered_set>

#include "optiq/kernels/fused_primitive.h"

namespace optiq::kernels {
namespace {

thread_local DispatchTape* recorded = nullptr;

// Operations of MLX that share their input's memory, where it is laid out in rows as
// all that our kernels write is.
constexpr std::array<std::string_view, 6> kViews = {"Reshape", "Slice",   "ExpandDims",
                                                    "Squeeze", "Flatten", "Unflatten"};

bool is_taped(mx::Primitive& primitive) {
  return dynamic_cast<FusedPrimitive*>(&primitive) ||
         std::ranges::find(kViews, primitive.name()) != kViews.end();
}

}  // namespace

TapeRecording::TapeRecording(DispatchTape& tape) { recorded = &tape; }

TapeRecording::~TapeRecording() { recorded = nullptr; }

DispatchTape* TapeRecording::current() { return recorded; }

bool can_be_taped(const std::vector<mx::array>& outputs) {
  std::unordered_set<std::uintptr_t> seen;
  std::vector<mx::array> open = outputs;
  while (!open.empty()) {
    const mx::array x = open.back();
    open.pop_back();
    if (!x.has_primitive() || !seen.insert(x.id()).second) continue;
    if (!is_taped(x.primitive())) return false;
    open.insert(open.end(), x.inputs().begin(), x.inputs().end());
  }
  return true;
}

}  // namespace optiq::kernels
