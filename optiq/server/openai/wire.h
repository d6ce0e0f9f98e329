// Pieces of OpenAI's replies that several routes share.
#pragma once
#include <cstdint>
#include <string>

#include "optiq/server/json_body.h"
#include "optiq/server/replying.h"

namespace optiq::server::openai {

/// "chatcmpl-" and 24 random letters and digits, for a prefix "chatcmpl-".
std::string new_id(const char* prefix);

std::int64_t unix_time_s();

/// "stop", "length", "tool_calls".
const char* finish_reason(const AnswerEnd& end);

Json usage(const AnswerUse& use);

/// The sum over choices: the prompt is counted once.
Json usage(const std::vector<AnswerUse>& uses);

/// An entry of logprobs.content.
Json log_prob_entry(const TokenRecord& token);

/// Finds the model or throws ApiError 404.
const ChatService& find_model(const ApiContext& context, const Fields& body);

}  // namespace optiq::server::openai
