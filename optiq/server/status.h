// What the server says of itself: /health for machines that watch it, /status for the
// page.
#pragma once
#include <chrono>

#include "optiq/generate/engine/engine.h"
#include "optiq/server/http/http_server.h"

namespace optiq::server {

/// 200 {"status": "ok"} while the engine is idle or makes progress; 503 {"status":
/// "stuck" or "draining"} else.
http::Response health(const generation::EngineStatus& engine,
                      std::chrono::seconds stuck_after, bool draining);

http::Response live_status(const generation::EngineStatus& engine,
                           const http::HttpStatus& http);

}  // namespace optiq::server
