// OpenAI's API: chat completions, completions, responses, embeddings.
#pragma once
#include "optiq/server/api.h"
#include "optiq/server/api_error.h"

namespace optiq::server::openai {

void chat_completions(const ApiContext& context,
                      std::shared_ptr<http::Exchange> exchange);
void completions(const ApiContext& context, std::shared_ptr<http::Exchange> exchange);
void responses(const ApiContext& context, std::shared_ptr<http::Exchange> exchange);
void embeddings(const ApiContext& context, std::shared_ptr<http::Exchange> exchange);

/// {"error": {"message", "type", "param", "code"}} with status and headers.
http::Response error_response(const ApiError& error, const std::string& request_id);

}  // namespace optiq::server::openai
