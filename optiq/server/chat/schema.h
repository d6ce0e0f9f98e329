// JSON schemas of strangers, brought into what a grammar can enforce.
#pragma once
#include <string>
#include <vector>

#include "optiq/server/chat/chat_request.h"
#include "optiq/text/constraint.h"

namespace optiq::server {

/// A grammar for the schema.
///
/// With `strict`, what cannot be enforced is an std::invalid_argument that names it;
/// else keywords that the compiler refuses are left out, one after the other, until it
/// takes the rest: tools of real clients are full of them, and a call that was enforced
/// in part is better than none.
///
/// Throws    std::invalid_argument
text::Constraint compile_schema(const text::GrammarCompiler& compiler, Json schema,
                                bool strict);

/// The schema without what the compiler refuses, for use inside of another grammar.
Json relaxed_schema(const text::GrammarCompiler& compiler, Json schema);

}  // namespace optiq::server
