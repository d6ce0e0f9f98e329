// GET /v1/models and /v1/models/NAME, in a form that both APIs' clients read.
#pragma once
#include <memory>
#include <string>

#include "optiq/server/api.h"

namespace optiq::server {

/// One body carries the keys of both: {"object", "data"} and {"has_more", "first_id",
/// "last_id"}; entries {"id", "object", "created", "owned_by"} and {"type",
/// "display_name", "created_at"}.
http::Response list_models(const ModelNames& models);

/// Throws    ApiError 404
http::Response show_model(const ModelNames& models, const std::string& name);

}  // namespace optiq::server
