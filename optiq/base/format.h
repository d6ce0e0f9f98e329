// Bytes, durations and tables as people read and write them.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace optiq {

/// Decimal units: "812 B", "23.4 MB", "4.8 GB".
std::string format_bytes(std::uint64_t bytes);

/// Reads "4.8GB", "512MiB", "100 kb", "123456": decimal units, or binary ones with an
/// i; case does not matter; a bare number is bytes.
///
/// Throws    std::invalid_argument saying what was expected.
std::uint64_t parse_bytes(std::string_view text);

/// "0.42 s", "12.3 s", "4 min 05 s", "2 h 10 min".
std::string format_duration(double seconds);

/// Rows of text under a header, in aligned columns.
class Table {
 public:
  /// Columns whose header begins with '>' are aligned to the right.
  explicit Table(std::vector<std::string> header);

  /// Requires  as many cells as the header has.
  void add_row(std::vector<std::string> cells);

  /// The table, each line ended by a newline.
  std::string text() const;

 private:
  std::vector<bool> right_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace optiq
