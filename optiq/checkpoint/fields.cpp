#include "optiq/checkpoint/fields.h"

#include <fmt/format.h>

#include <cmath>

#include "optiq/base/error.h"
#include "optiq/checkpoint/quote.h"

namespace optiq::checkpoint {
namespace {

// A whole number inside [min, max]; JSON's unsigned ones may exceed int64.
bool is_integer(const nlohmann::json& value, std::int64_t min, std::int64_t max) {
  if (!value.is_number_integer()) return false;
  if (value.is_number_unsigned() &&
      value.get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX))
    return false;
  const auto number = value.get<std::int64_t>();
  return min <= number && number <= max;
}

std::string range(std::int64_t min, std::int64_t max) {
  return fmt::format("a whole number from {} to {}", min, max);
}

}  // namespace

const nlohmann::json* Fields::find(std::string_view key) const {
  const auto found = object_->find(key);
  return found == object_->end() || found->is_null() ? nullptr : &*found;
}

void Fields::fail(std::string_view key, const std::string& expected) const {
  const nlohmann::json* value = find(key);
  fail(key, expected,
       value == nullptr     ? "nothing"
       : value->is_string() ? quote(value->get_ref<const std::string&>())
       : value->is_structured()
           ? std::string(value->is_array() ? "a list" : "an object")
           : value->dump(-1, ' ', true, nlohmann::json::error_handler_t::replace));
}

void Fields::fail(std::string_view key, const std::string& expected,
                  const std::string& found) const {
  throw CheckpointError(fmt::format("{}: {}{}: expected {}, found {}", file_.string(),
                                    prefix_, key, expected, found));
}

const nlohmann::json& Fields::need(std::string_view key,
                                   const std::string& expected) const {
  const nlohmann::json* value = find(key);
  if (value == nullptr) fail(key, expected);
  return *value;
}

std::int64_t Fields::integer(std::string_view key, std::int64_t min,
                             std::int64_t max) const {
  const nlohmann::json& value = need(key, range(min, max));
  if (!is_integer(value, min, max)) fail(key, range(min, max));
  return value.get<std::int64_t>();
}

std::int64_t Fields::integer_or(std::string_view key, std::int64_t otherwise,
                                std::int64_t min, std::int64_t max) const {
  return has(key) ? integer(key, min, max) : otherwise;
}

double Fields::number(std::string_view key, double min, double max) const {
  const std::string expected = fmt::format("a number from {} to {}", min, max);
  const nlohmann::json& value = need(key, expected);
  if (!value.is_number()) fail(key, expected);
  const double number = value.get<double>();
  if (!(min <= number && number <= max)) fail(key, expected);
  return number;
}

double Fields::number_or(std::string_view key, double otherwise, double min,
                         double max) const {
  return has(key) ? number(key, min, max) : otherwise;
}

bool Fields::boolean_or(std::string_view key, bool otherwise) const {
  const nlohmann::json* value = find(key);
  if (value == nullptr) return otherwise;
  if (!value->is_boolean()) fail(key, "true or false");
  return value->get<bool>();
}

std::string Fields::text(std::string_view key) const {
  const nlohmann::json& value = need(key, "text");
  if (!value.is_string()) fail(key, "text");
  return value.get<std::string>();
}

std::string Fields::text_or(std::string_view key, std::string_view otherwise) const {
  return has(key) ? text(key) : std::string(otherwise);
}

std::vector<std::int64_t> Fields::integers(std::string_view key, std::int64_t min,
                                           std::int64_t max) const {
  const nlohmann::json* value = find(key);
  if (value == nullptr) return {};
  if (!value->is_array()) return {integer(key, min, max)};
  std::vector<std::int64_t> numbers;
  for (const nlohmann::json& item : *value) {
    if (!is_integer(item, min, max)) fail(key, "a list, each " + range(min, max));
    numbers.push_back(item.get<std::int64_t>());
  }
  return numbers;
}

std::vector<std::string> Fields::texts(std::string_view key) const {
  const nlohmann::json* value = find(key);
  if (value == nullptr) return {};
  if (!value->is_array()) fail(key, "a list of texts");
  std::vector<std::string> texts;
  for (const nlohmann::json& item : *value) {
    if (!item.is_string()) fail(key, "a list of texts");
    texts.push_back(item.get<std::string>());
  }
  return texts;
}

std::vector<double> Fields::numbers(std::string_view key, double min,
                                    double max) const {
  const nlohmann::json* value = find(key);
  if (value == nullptr) return {};
  const std::string expected = fmt::format("a list of numbers from {} to {}", min, max);
  if (!value->is_array()) fail(key, expected);
  std::vector<double> numbers;
  for (const nlohmann::json& item : *value) {
    const double number = item.is_number() ? item.get<double>() : max + 1;
    if (!(min <= number && number <= max)) fail(key, expected);
    numbers.push_back(number);
  }
  return numbers;
}

std::optional<Fields> Fields::object(std::string_view key) const {
  const nlohmann::json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_object()) fail(key, "an object");
  return Fields(*value, file_, fmt::format("{}{}.", prefix_, key));
}

}  // namespace optiq::checkpoint
