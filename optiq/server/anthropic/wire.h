// Pieces of Anthropic's replies.
#pragma once
#include <string>

#include "optiq/server/json_body.h"
#include "optiq/server/replying.h"

namespace optiq::server::anthropic {

/// "end_turn", "max_tokens", "stop_sequence", "tool_use",
/// "model_context_window_exceeded".
const char* stop_reason(const AnswerEnd& end);

/// Input tokens are those that were not cached.
Json usage(const AnswerUse& use);

/// "toolu_..." for our "call_...".
std::string tool_use_id(const std::string& call_id);

std::string new_message_id();

/// Opaque to clients, which send it back.
std::string signature();

const ChatService& find_model(const ApiContext& context, const Fields& body);

/// What this API's clients understand of an error.
ApiError told_error(const std::exception& error);

}  // namespace optiq::server::anthropic
