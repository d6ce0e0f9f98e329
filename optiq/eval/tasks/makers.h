// The functions that make one case of a task; `task.h` says what each must keep to.
#pragma once
#include "optiq/eval/tasks/task.h"

namespace optiq::eval {

Case make_needle(Random& random, const CaseWish& wish);
Case make_hashhop(Random& random, const CaseWish& wish);
Case make_recall(Random& random, const CaseWish& wish);
Case make_copy(Random& random, const CaseWish& wish);
Case make_arithmetic(Random& random, const CaseWish& wish);
Case make_json(Random& random, const CaseWish& wish);
Case make_tools(Random& random, const CaseWish& wish);

}  // namespace optiq::eval
