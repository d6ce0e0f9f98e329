// A body of /v1/chat/completions as a chat request; parts of it serve other routes too.
#pragma once
#include <string>

#include "optiq/server/api.h"
#include "optiq/server/json_body.h"

namespace optiq::server::openai {

/// Throws    ApiError 400 naming the field
ChatRequest read_chat(const Fields& body, const ApiDefaults& defaults);

/// temperature, top_p, top_k, min_p, seed, penalties, logit_bias, stop, max_tokens...
void read_sampling(const Fields& body, const ApiDefaults& defaults,
                   ChatRequest& request);

/// The text of a message's content: a string, or parts of it. What is no text leaves a
/// note in its place; what would have to be fetched is refused.
std::string read_content(const Fields& message, const char* name);

/// response_format, or text.format of the Responses API.
AnswerFormat read_format(const Fields& format);

ToolChoice read_tool_choice(const Json& choice, const Fields& body);

/// {"type": "function", "function": {...}} with a name that is fit for one.
Json read_tool(const Fields& tool, const Fields& function);

/// Arguments of a call as an object; a text that is none is kept so that a template can
/// show it.
Json read_arguments(const std::string& text);

}  // namespace optiq::server::openai
