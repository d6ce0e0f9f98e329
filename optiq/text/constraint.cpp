#include "optiq/text/constraint.h"

#include "optiq/text/rust_call.h"

namespace optiq::text {
namespace {

optiq_constraint* copy(const optiq_constraint* constraint) {
  return constraint ? ::optiq_constraint_copy(constraint) : nullptr;
}

}  // namespace

GrammarCompiler::GrammarCompiler(const Tokenizer& tokenizer, int n_logits,
                                 std::vector<int> end_ids) {
  const std::vector<std::uint32_t> ends(end_ids.begin(), end_ids.end());
  optiq_grammar_compiler* made = nullptr;
  OwnedBytes error;
  check(::optiq_compiler_new(tokenizer.handle().get(),
                             static_cast<std::uint32_t>(n_logits),
                             {ends.data(), ends.size()}, &made, error.out()),
        error, tokenizer.file(), "");
  handle_.reset(made, ::optiq_compiler_free);
}

Constraint GrammarCompiler::compile(const Grammar& grammar) const {
  optiq_constraint* made = nullptr;
  OwnedBytes error;
  check(::optiq_constraint_new(handle_.get(), static_cast<std::uint32_t>(grammar.kind),
                               view(grammar.source), &made, error.out()),
        error, "grammar", "");
  return Constraint(made);
}

Constraint::Constraint(optiq_constraint* handle)
    : handle_(handle, ::optiq_constraint_free) {}

Constraint::Constraint(const Constraint& other)
    : Constraint(copy(other.handle_.get())) {}

void Constraint::fill_mask(std::span<std::uint32_t> mask) {
  OwnedBytes error;
  check(::optiq_constraint_mask(handle_.get(), mask.data(), mask.size(), error.out()),
        error, "grammar", "");
}

void Constraint::accept(int id) {
  OwnedBytes error;
  check(::optiq_constraint_accept(handle_.get(), static_cast<std::uint32_t>(id),
                                  error.out()),
        error, "grammar", "");
}

bool Constraint::may_end() { return ::optiq_constraint_may_end(handle_.get()); }
bool Constraint::must_end() { return ::optiq_constraint_must_end(handle_.get()); }

}  // namespace optiq::text
