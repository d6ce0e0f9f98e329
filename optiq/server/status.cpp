#include "optiq/server/status.h"

#include <nlohmann/json.hpp>

namespace optiq::server {
namespace {

using Json = nlohmann::ordered_json;

}  // namespace

http::Response health(const generation::EngineStatus& engine,
                      std::chrono::seconds stuck_after, bool draining) {
  const bool stuck = engine.since_progress_s > static_cast<double>(stuck_after.count());
  Json body;
  body["status"] = stuck ? "stuck" : draining ? "draining" : "ok";
  body["running"] = engine.running;
  body["waiting"] = engine.waiting;
  body["steps"] = engine.steps;
  body["since_progress_s"] = engine.since_progress_s;
  body["loaded"] = engine.loaded;
  return {.status = stuck || draining ? 503 : 200, .body = body.dump()};
}

http::Response live_status(const generation::EngineStatus& engine,
                           const http::HttpStatus& http) {
  Json body;
  body["running"] = engine.running;
  body["waiting"] = engine.waiting;
  body["connections"] = http.connections;
  body["prompt_tokens"] = engine.prompt_tokens;
  body["cached_tokens"] = engine.cached_tokens;
  body["completion_tokens"] = engine.completion_tokens;
  body["drafted_tokens"] = engine.drafted_tokens;
  body["accepted_tokens"] = engine.accepted_tokens;
  Json cache;
  cache["budget_bytes"] = engine.budget_bytes;
  cache["used_bytes"] = engine.pages.used_bytes;
  cache["shared_bytes"] = engine.pages.shared_bytes;
  cache["prefix_bytes"] = engine.prefix_bytes;
  cache["prefix_entries"] = engine.prefix_entries;
  body["cache"] = std::move(cache);
  body["loaded"] = engine.loaded;
  return {.body = body.dump()};
}

}  // namespace optiq::server
