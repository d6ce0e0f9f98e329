// Anthropic's API: messages, and counting their tokens.
#pragma once
#include "optiq/server/api.h"
#include "optiq/server/api_error.h"

namespace optiq::server::anthropic {

void messages(const ApiContext& context, std::shared_ptr<http::Exchange> exchange);
void count_tokens(const ApiContext& context, std::shared_ptr<http::Exchange> exchange);

/// {"type": "error", "error": {"type", "message"}, "request_id"} with status and
/// headers.
http::Response error_response(const ApiError& error, const std::string& request_id);

}  // namespace optiq::server::anthropic
