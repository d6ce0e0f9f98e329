// Tool calls as a grammar, in the way that a model writes them.
#pragma once
#include <optional>
#include <string>

#include "optiq/server/chat/chat_request.h"
#include "optiq/server/chat/tools/tool_format.h"
#include "optiq/text/constraint.h"
#include "optiq/text/tokenizer.h"

namespace optiq::server {

/// A grammar of one or more whole calls of these tools.
///
/// Requires  at least one tool, each schema one that the compiler takes
text::Grammar call_grammar(const ToolFormat& format, const text::Tokenizer& tokenizer,
                           const DeclaredTools& tools, bool parallel);

/// The mark that opens a call in a format whose calls stand in tags; empty for others.
std::string opening_mark(const ToolFormat& format);

/// A grammar of one call behind its opening mark, up to and with the closing one.
///
/// Requires  as above; a format that has an opening_mark()
text::Grammar call_rest_grammar(const ToolFormat& format,
                                const text::Tokenizer& tokenizer,
                                const DeclaredTools& tools);

}  // namespace optiq::server
