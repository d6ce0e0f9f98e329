// The text that perplexity and KL are measured on where no other is given.
#pragma once
#include <string_view>

namespace optiq::eval {

/// data/heldout.txt: 80 kB of English prose in the public domain, embedded in the
/// program. Models trained on old books know it; compare models with each other on it,
/// and not one model with another's published numbers.
std::string_view heldout_text();

}  // namespace optiq::eval
