// Which tokens may follow so that the text obeys a grammar.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "optiq/text/tokenizer.h"

struct optiq_constraint;
struct optiq_grammar_compiler;

namespace optiq::text {

/// A grammar as its author wrote it.
struct Grammar {
  enum class Kind { kJsonSchema, kRegex, kLark };
  Kind kind = Kind::kJsonSchema;
  std::string source;
};

class Constraint;

/// Compiles grammars for one tokenizer.
///
/// Threads   any.
class GrammarCompiler {
 public:
  /// `n_logits` of the model may be more than the tokenizer has tokens: those never
  /// come. `end_ids` end an answer and may come only where the grammar is complete.
  ///
  /// Throws    CheckpointError for tokenizers whose tokens have no fixed bytes
  GrammarCompiler(const Tokenizer& tokenizer, int n_logits, std::vector<int> end_ids);

  /// Throws    std::invalid_argument naming what the grammar has that is not supported,
  ///           or that it is too large
  /// Cost      limited in steps and bytes; under 10 ms for usual schemas
  Constraint compile(const Grammar& grammar) const;

 private:
  std::shared_ptr<optiq_grammar_compiler> handle_;
};

/// The state of one text under a grammar. Copies go on apart.
///
/// Threads   one at a time.
class Constraint {
 public:
  Constraint(const Constraint& other);
  Constraint(Constraint&&) noexcept = default;
  Constraint& operator=(Constraint&&) noexcept = default;

  /// Bit i % 32 of word i / 32 is set where token i may come next.
  ///
  /// Shapes    mask [ceil(n_logits / 32)]
  /// Throws    std::invalid_argument if the grammar costs more than is allowed
  void fill_mask(std::span<std::uint32_t> mask);

  /// Throws    std::invalid_argument if the token may not come here
  void accept(int id);

  /// The text may end here.
  bool may_end();

  /// Nothing but the end may follow.
  bool must_end();

 private:
  friend class GrammarCompiler;
  explicit Constraint(optiq_constraint* handle);

  std::unique_ptr<optiq_constraint, void (*)(optiq_constraint*)> handle_;
};

}  // namespace optiq::text
