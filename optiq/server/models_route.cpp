#include "optiq/server/models_route.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "optiq/server/api_error.h"

namespace optiq::server {
namespace {

using Json = nlohmann::ordered_json;

Json describe(const ModelNames::Entry& entry) {
  Json json;
  json["id"] = entry.name;
  json["object"] = "model";
  json["created"] = entry.created_s;
  json["owned_by"] = "optiq";
  json["type"] = "model";
  json["display_name"] = entry.name;
  json["created_at"] =
      fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(entry.created_s));
  json["context_length"] = entry.context_length;
  json["max_model_len"] = entry.context_length;
  if (!entry.parent.empty()) json["parent"] = entry.parent;
  return json;
}

}  // namespace

http::Response list_models(const ModelNames& models) {
  Json data = Json::array();
  for (const auto& entry : models.list()) data.push_back(describe(entry));
  Json body;
  body["object"] = "list";
  body["first_id"] = data.empty() ? Json(nullptr) : data.front()["id"];
  body["last_id"] = data.empty() ? Json(nullptr) : data.back()["id"];
  body["has_more"] = false;
  body["data"] = std::move(data);
  return {.body = body.dump()};
}

http::Response show_model(const ModelNames& models, const std::string& name) {
  for (const auto& entry : models.list())
    if (entry.name == name) return {.body = describe(entry).dump()};
  // An alias with a '*' is known by any name that fits it.
  if (!name.empty() && models.find(name)) {
    ModelNames::Entry entry = models.list().front();
    entry.name = name;
    return {.body = describe(entry).dump()};
  }
  throw ApiError(404, "there is no model of this name; GET /v1/models lists them",
                 "model", "model_not_found");
}

}  // namespace optiq::server
