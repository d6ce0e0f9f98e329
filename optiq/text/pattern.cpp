#include "optiq/text/pattern.h"

#include "optiq/text/rust_call.h"

namespace optiq::text {

Pattern::Pattern(std::string_view source) {
  optiq_pattern* made = nullptr;
  OwnedBytes error;
  check(::optiq_pattern_new(view(source), &made, error.out()), error, "pattern", "");
  handle_.reset(made, ::optiq_pattern_free);
}

bool Pattern::matches(std::string_view text) const {
  return ::optiq_pattern_is_match(handle_.get(), view(text));
}

}  // namespace optiq::text
