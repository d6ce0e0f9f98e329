#include "optiq/server/json_body.h"

#include <fmt/format.h>

#include <cmath>

#include "optiq/server/api_error.h"

namespace optiq::server {
namespace {

constexpr int kMaxDepth = 100;
constexpr std::size_t kShownText = 40;

// A text for an error message: short, and of one line.
std::string shortened(const std::string& text) {
  const bool cut = text.size() > kShownText;
  std::string shown = Json(text.substr(0, kShownText))
                          .dump(-1, ' ', true, Json::error_handler_t::replace);
  return cut ? shown + "..." : shown;
}

}  // namespace

std::string describe(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null:
      return "null";
    case Json::value_t::boolean:
      return value.get<bool>() ? "true" : "false";
    case Json::value_t::string:
      return "the string " + shortened(value.get_ref<const std::string&>());
    case Json::value_t::array:
      return fmt::format("an array of {}", value.size());
    case Json::value_t::object:
      return "an object";
    default:
      return "the number " + value.dump();
  }
}

Fields::Fields(const Json& object, std::string path)
    : object_(object), path_(std::move(path)) {
  if (object_.is_object()) return;
  throw ApiError(400,
                 fmt::format("{}: expected an object, found {}",
                             path_.empty() ? "the body" : path_, describe(object_)),
                 path_);
}

std::string Fields::path(const char* name) const {
  return path_.empty() ? name : path_ + "." + name;
}

std::string Fields::path(const char* name, std::size_t index) const {
  return fmt::format("{}[{}]", path(name), index);
}

void Fields::fail(const char* name, const std::string& expected) const {
  const Json* found = find(name);
  const std::string where = path(name);
  throw ApiError(400,
                 fmt::format("{}: expected {}, found {}", where, expected,
                             found ? describe(*found) : "nothing"),
                 where);
}

const Json* Fields::find(const char* name) const {
  const auto at = object_.find(name);
  return at == object_.end() || at->is_null() ? nullptr : &*at;
}

const Json& Fields::require(const char* name) const {
  if (const Json* value = find(name)) return *value;
  const std::string where = path(name);
  throw ApiError(400, fmt::format("{}: field required", where), where);
}

std::optional<std::string> Fields::text(const char* name) const {
  const Json* value = find(name);
  if (!value) return std::nullopt;
  if (!value->is_string()) fail(name, "a string");
  return value->get<std::string>();
}

std::string Fields::required_text(const char* name) const {
  require(name);
  return *text(name);
}

std::optional<bool> Fields::boolean(const char* name) const {
  const Json* value = find(name);
  if (!value) return std::nullopt;
  if (!value->is_boolean()) fail(name, "true or false");
  return value->get<bool>();
}

std::optional<double> Fields::number(const char* name, double low, double high) const {
  const Json* value = find(name);
  if (!value) return std::nullopt;
  const double x = value->is_number() ? value->get<double>() : std::nan("");
  // A NaN is in no range.
  if (!(x >= low && x <= high))
    fail(name, fmt::format("a number from {} to {}", low, high));
  return x;
}

std::optional<std::int64_t> Fields::integer(const char* name, std::int64_t low,
                                            std::int64_t high) const {
  const Json* value = find(name);
  if (!value) return std::nullopt;
  const auto refuse = [&] {
    fail(name, fmt::format("a whole number from {} to {}", low, high));
  };
  std::int64_t n = 0;
  if (value->is_number_unsigned()) {
    const auto x = value->get<std::uint64_t>();
    if (x > static_cast<std::uint64_t>(INT64_MAX)) refuse();
    n = static_cast<std::int64_t>(x);
  } else if (value->is_number_integer()) {
    n = value->get<std::int64_t>();
  } else {
    const double x = value->is_number() ? value->get<double>() : std::nan("");
    if (!(std::abs(x) < 9e15) || x != std::floor(x)) refuse();
    n = static_cast<std::int64_t>(x);
  }
  if (n < low || n > high) refuse();
  return n;
}

const Json* Fields::array(const char* name, std::size_t most) const {
  const Json* value = find(name);
  if (!value) return nullptr;
  if (!value->is_array()) fail(name, "an array");
  if (value->size() > most) fail(name, fmt::format("at most {} elements", most));
  return value;
}

std::optional<Fields> Fields::object(const char* name) const {
  const Json* value = find(name);
  if (!value) return std::nullopt;
  return Fields(*value, path(name));
}

std::vector<std::string> Fields::text_or_texts(const char* name,
                                               std::size_t most) const {
  const Json* value = find(name);
  if (!value) return {};
  if (value->is_string()) return {value->get<std::string>()};
  const std::string expected =
      fmt::format("a string or an array of at most {} strings", most);
  if (!value->is_array() || value->size() > most) fail(name, expected);
  std::vector<std::string> texts;
  for (const Json& element : *value) {
    if (!element.is_string()) fail(name, expected);
    texts.push_back(element.get<std::string>());
  }
  return texts;
}

Json parse_body(std::string_view body) {
  Json json;
  try {
    json = Json::parse(body, [](int depth, Json::parse_event_t, Json&) {
      if (depth > kMaxDepth)
        throw ApiError(400, fmt::format("the body: nested deeper than {}", kMaxDepth));
      return true;
    });
  } catch (const Json::exception& error) {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: ..."
    std::string what = error.what();
    if (const auto end = what.find("] "); end != std::string::npos)
      what = what.substr(end + 2);
    throw ApiError(400, "the body is not valid JSON: " +
                            Json(what.substr(0, 200))
                                .dump(-1, ' ', true, Json::error_handler_t::replace));
  }
  Fields check(json, "");
  return json;
}

}  // namespace optiq::server
