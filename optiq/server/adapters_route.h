// GET, POST and DELETE of /v1/adapters.
#pragma once
#include <string>

#include "optiq/server/chat/served_model.h"
#include "optiq/server/http/http.h"

namespace optiq::server {

/// {"object": "list", "data": [{"id", "object", "path", "mounted_layers", ...}]}
http::Response list_adapters(const ServedModel& model);

/// Mounts {"id", "path"}: a directory of the server's machine, or a hub id.
///
/// Throws    ApiError 400 for what cannot be mounted, 409 for a name that is taken
http::Response mount_adapter(const ServedModel& model, const http::Request& request);

/// Throws    ApiError 404
http::Response unmount_adapter(const ServedModel& model, const std::string& id);

}  // namespace optiq::server
