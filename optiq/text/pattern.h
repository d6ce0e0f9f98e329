// A regular expression that a file brings.
#pragma once
#include <memory>
#include <string_view>

struct optiq_pattern;

namespace optiq::text {

/// Without look-around and back-references, so that no pattern can take long.
///
/// Threads   any.
class Pattern {
 public:
  /// Throws    std::invalid_argument saying what is wrong with it
  explicit Pattern(std::string_view source);

  /// True if some part of the text matches; ^ and $ bind the pattern to all of it.
  bool matches(std::string_view text) const;

 private:
  std::shared_ptr<const optiq_pattern> handle_;
};

}  // namespace optiq::text
