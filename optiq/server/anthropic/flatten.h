// Content blocks as plain text: the same bytes whatever shape a client gives them from
// one turn to the next, or the prefix cache would miss.
#pragma once
#include <map>
#include <string>

#include "optiq/server/json_body.h"

namespace optiq::server::anthropic {

/// Schemas of tools that are not shown to the model until a search finds them, by name.
using DeferredTools = std::map<std::string, Json>;

/// The text of one block of a user's message, of the system prompt, or of a tool's
/// result. What is no text leaves a note in its place: an error would end a session for
/// good.
std::string block_text(const Fields& block, const DeferredTools& deferred);

/// A string, or blocks: their texts, each on lines of its own.
std::string content_text(const Fields& owner, const char* name,
                         const DeferredTools& deferred);

/// The system prompt. The billing block that Claude Code puts in front changes from one
/// request to the next and is left out.
std::string system_text(const Fields& body);

}  // namespace optiq::server::anthropic
