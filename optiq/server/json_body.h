// The JSON of a request, read strictly: every mistake names its field.
#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace optiq::server {

using Json = nlohmann::ordered_json;

/// An object of a request's body, or a part of one. Fields that nobody asks for are
/// ignored; null is as good as absent.
///
/// Throws    each reader: ApiError 400 that names the field by its path
///           ("messages[2].content"), what was expected and what was found
/// Requires  the JSON outlives this
class Fields {
 public:
  /// `path` is what messages call this object; empty for the body itself.
  Fields(const Json& object, std::string path);

  /// The value, or null if it is absent or null.
  const Json* find(const char* name) const;
  bool has(const char* name) const { return find(name) != nullptr; }

  /// The same, but it must be there.
  const Json& require(const char* name) const;

  std::optional<std::string> text(const char* name) const;
  std::string required_text(const char* name) const;
  std::optional<bool> boolean(const char* name) const;
  std::optional<double> number(const char* name, double low, double high) const;

  /// Whole numbers; 5.0 is one.
  std::optional<std::int64_t> integer(const char* name, std::int64_t low,
                                      std::int64_t high) const;

  /// An array; null if absent.
  const Json* array(const char* name, std::size_t most = 1'000'000) const;

  std::optional<Fields> object(const char* name) const;

  /// A text, or an array of at most `most` texts; empty if absent.
  std::vector<std::string> text_or_texts(const char* name, std::size_t most) const;

  /// "messages[2].content" for a field, or an element of it.
  std::string path(const char* name) const;
  std::string path(const char* name, std::size_t index) const;

  const Json& json() const { return object_; }

  [[noreturn]] void fail(const char* name, const std::string& expected) const;

 private:
  const Json& object_;
  std::string path_;
};

/// Parses a body.
///
/// Throws    ApiError 400 if it is not JSON, not an object, or nested deeper than 100
Json parse_body(std::string_view body);

/// What a message calls a value: "a string", "an array", "the number 7".
std::string describe(const Json& value);

}  // namespace optiq::server
