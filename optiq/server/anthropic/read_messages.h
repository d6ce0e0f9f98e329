// A body of /v1/messages as a chat request.
#pragma once
#include "optiq/server/api.h"
#include "optiq/server/json_body.h"

namespace optiq::server::anthropic {

/// `counting`: max_tokens need not be there.
///
/// Throws    ApiError 400 naming the field
ChatRequest read_messages(const Fields& body, const ApiDefaults& defaults,
                          bool counting = false);

}  // namespace optiq::server::anthropic
