// The largest case that a number of tokens holds.
#pragma once
#include <functional>

#include "optiq/eval/tasks/task.h"

namespace optiq::eval {

/// build(n) for an n so large that the case has at most `wish.length` tokens and either
/// less than 8 fewer, or build(n + 1) has too many.
///
/// Requires  build(n) grows with n by and large, and without end
/// Throws    std::invalid_argument if build(least) is too long; the message says how
///           long it is.
/// Cost      builds and counts some ten cases.
Case fit(const CaseWish& wish, int least, const std::function<Case(int n)>& build);

}  // namespace optiq::eval
