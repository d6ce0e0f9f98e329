// A body of /v1/responses as a chat request.
#pragma once
#include "optiq/server/api.h"
#include "optiq/server/json_body.h"

namespace optiq::server::openai {

/// `earlier`: the messages that the request goes on from, without its instructions.
///
/// Throws    ApiError 400 naming the field
ChatRequest read_response(const Fields& body, const ApiDefaults& defaults,
                          Json earlier);

}  // namespace optiq::server::openai
