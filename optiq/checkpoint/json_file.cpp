#include "optiq/checkpoint/json_file.h"

#include <fmt/format.h>

#include <set>
#include <string>
#include <vector>

#include "optiq/base/error.h"
#include "optiq/base/file.h"
#include "optiq/checkpoint/quote.h"

namespace optiq::checkpoint {

using nlohmann::json;

namespace {

[[noreturn]] void refuse(const std::filesystem::path& file, const std::string& what) {
  throw CheckpointError(fmt::format("{}: {}", file.string(), what));
}

json parse_json(std::string_view text, const std::filesystem::path& file) {
  constexpr int kDepthLimit = 64;
  const auto fail = [&](const std::string& what) { refuse(file, what); };
  std::vector<std::set<std::string>> keys;
  const auto watch = [&](int depth, json::parse_event_t event, json& value) {
    if (depth > kDepthLimit)
      fail(fmt::format("expected JSON nested at most {} deep", kDepthLimit));
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end) keys.pop_back();
    if (event == json::parse_event_t::key) {
      const auto& key = value.get_ref<const std::string&>();
      if (!keys.back().insert(key).second)
        fail(fmt::format("expected each key once, found {} twice", quote(key)));
    }
    return true;
  };
  try {
    return json::parse(text, watch);
  } catch (const json::parse_error& error) {
    fail(fmt::format("expected JSON, found a mistake at byte {}", error.byte));
  } catch (const json::exception&) {  // such as a number out of range
    fail("expected JSON, found a value out of range");
  }
  return {};
}

}  // namespace

json parse_json_object(std::string_view text, const std::filesystem::path& file) {
  json value = parse_json(text, file);
  if (!value.is_object())
    refuse(file, fmt::format("expected a JSON object, found {}", value.type_name()));
  return value;
}

json parse_json_list(std::string_view text, const std::filesystem::path& file) {
  json value = parse_json(text, file);
  if (!value.is_array())
    refuse(file, fmt::format("expected a JSON list, found {}", value.type_name()));
  return value;
}

json read_json_object(const std::filesystem::path& file, std::size_t limit_bytes) {
  return parse_json_object(read_file(file, limit_bytes), file);
}

}  // namespace optiq::checkpoint
