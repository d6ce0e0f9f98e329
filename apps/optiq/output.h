// Where a command's results go: text on stdout, and the JSON summary if one is wanted.
#pragma once
#include <fmt/format.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace optiq::app {

class Output {
 public:
  /// `json_target`: empty for no summary, "-" for stdout (which then carries nothing
  /// else), else a file.
  ///
  /// Throws    ResourceError if the file's directory is not there or cannot be written:
  ///           now, not after the work.
  explicit Output(std::string json_target);

  /// Text on stdout at once, unless stdout carries the summary.
  ///
  /// Throws    ResourceError if stdout cannot be written (disk full).
  void write(std::string_view text);

  template <class... Args>
  void print(fmt::format_string<Args...> text, Args&&... args) {
    write(fmt::format(text, std::forward<Args>(args)...));
  }

  /// The run's summary. Call once, at the end: a file appears whole or not at all.
  ///
  /// Throws    ResourceError.
  void summary(const nlohmann::ordered_json& summary);

 private:
  std::string json_target_;
};

}  // namespace optiq::app
