// The keys of one JSON object, read with their ranges and errors that name them.
#pragma once
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace optiq::checkpoint {

/// Every getter throws CheckpointError "<file>: <key>: expected ..., found ..."; a key
/// whose value is null counts as absent, as in transformers.
class Fields {
 public:
  Fields(const nlohmann::json& object, std::filesystem::path file,
         std::string prefix = "")
      : object_(&object), file_(std::move(file)), prefix_(std::move(prefix)) {}

  bool has(std::string_view key) const { return find(key) != nullptr; }
  const nlohmann::json* find(std::string_view key) const;  // none if absent or null

  std::int64_t integer(std::string_view key, std::int64_t min, std::int64_t max) const;
  std::int64_t integer_or(std::string_view key, std::int64_t otherwise,
                          std::int64_t min, std::int64_t max) const;
  double number(std::string_view key, double min, double max) const;
  double number_or(std::string_view key, double otherwise, double min,
                   double max) const;
  bool boolean_or(std::string_view key, bool otherwise) const;
  std::string text(std::string_view key) const;
  std::string text_or(std::string_view key, std::string_view otherwise) const;

  /// A list of integers; one integer counts as a list of one. Empty if absent.
  std::vector<std::int64_t> integers(std::string_view key, std::int64_t min,
                                     std::int64_t max) const;
  std::vector<std::string> texts(std::string_view key) const;  // empty if absent
  std::vector<double> numbers(std::string_view key, double min, double max) const;

  /// The object under a key.
  std::optional<Fields> object(std::string_view key) const;

  [[noreturn]] void fail(std::string_view key, const std::string& expected) const;
  [[noreturn]] void fail(std::string_view key, const std::string& expected,
                         const std::string& found) const;

  const nlohmann::json& json() const { return *object_; }

 private:
  const nlohmann::json& need(std::string_view key, const std::string& expected) const;

  const nlohmann::json* object_;
  std::filesystem::path file_;
  std::string prefix_;  // "text_config.", or empty
};

}  // namespace optiq::checkpoint
