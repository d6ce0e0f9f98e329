#include "optiq/server/adapters_route.h"

#include <nlohmann/json.hpp>

#include "optiq/base/error.h"
#include "optiq/base/log.h"
#include "optiq/server/api_error.h"
#include "optiq/server/json_body.h"

namespace optiq::server {
namespace {

using Json = nlohmann::ordered_json;

Json describe_entry(const ServedAdapters::Entry& entry, const ServedModel& model) {
  Json json;
  json["id"] = entry.id;
  json["object"] = "adapter";
  json["created"] = entry.created_s;
  json["path"] = entry.source;
  json["parent"] = model.id;
  json["mounted_layers"] = entry.modules;
  json["bytes"] = entry.bytes;
  json["summary"] = entry.summary;
  return json;
}

}  // namespace

http::Response list_adapters(const ServedModel& model) {
  Json data = Json::array();
  if (model.adapters)
    for (const auto& entry : model.adapters->list())
      data.push_back(describe_entry(entry, model));
  Json body;
  body["object"] = "list";
  body["data"] = std::move(data);
  return {.body = body.dump(-1, ' ', false, Json::error_handler_t::replace)};
}

http::Response mount_adapter(const ServedModel& model, const http::Request& request) {
  const Json json = parse_body(request.body);
  const Fields body(json, "");
  const std::string id = body.required_text("id"), path = body.required_text("path");
  if (id == model.id) throw ApiError(409, "id: this is the name of the model", "id");
  if (model.adapters->has(id))
    throw ApiError(409, "id: an adapter of this name is mounted already", "id");
  try {
    const auto entry = model.adapters->mount(id, path);
    log_info("adapter {} is mounted: {}", id, entry.summary);
    return {.body = describe_entry(entry, model)
                        .dump(-1, ' ', false, Json::error_handler_t::replace)};
  } catch (const CheckpointError& error) {
    throw ApiError(400, std::string("path: ") + error.what(), "path");
  } catch (const std::invalid_argument& error) {
    throw ApiError(400, error.what(), "id");
  } catch (const ResourceError& error) {
    throw ApiError(400, std::string("path: ") + error.what(), "path");
  }
}

http::Response unmount_adapter(const ServedModel& model, const std::string& id) {
  try {
    model.adapters->unmount(id);
  } catch (const std::invalid_argument& error) {
    throw ApiError(404, error.what(), "id", "adapter_not_found");
  }
  log_info("adapter {} is unmounted", id);
  Json body;
  body["id"] = id;
  body["object"] = "adapter.deleted";
  body["deleted"] = true;
  return {.body = body.dump(-1, ' ', false, Json::error_handler_t::replace)};
}

}  // namespace optiq::server
