// Ends an answer at given texts, which may come in pieces.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace optiq::generation {

/// Passes text through until one of the stop strings is complete. Text that may be the
/// beginning of one is held back.
class StopStrings {
 public:
  /// Empty strings are ignored.
  explicit StopStrings(std::vector<std::string> stops);

  /// The text that is safe to show now. Nothing comes after a stop string is found.
  std::string feed(std::string_view piece);

  /// What was held back, when no more text comes.
  std::string finish();

  bool found() const { return !match_.empty(); }

  /// The stop string that ended the text.
  const std::string& match() const { return match_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  std::string match_;
};

}  // namespace optiq::generation
