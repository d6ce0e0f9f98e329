#include "optiq/base/format.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <stdexcept>

#include "optiq/base/error.h"

namespace optiq {
namespace {

struct Unit {
  const char* name;
  double factor;
};

constexpr Unit kUnits[] = {
    {"", 1},          {"b", 1},
    {"kb", 1e3},      {"mb", 1e6},
    {"gb", 1e9},      {"tb", 1e12},
    {"k", 1e3},       {"m", 1e6},
    {"g", 1e9},       {"t", 1e12},
    {"kib", 1024},    {"mib", 1 << 20},
    {"gib", 1 << 30}, {"tib", 1099511627776.0},
};

// Columns on a terminal, near enough: code points, not bytes.
std::size_t width(const std::string& text) {
  return static_cast<std::size_t>(std::ranges::count_if(
      text, [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

}  // namespace

std::string format_bytes(std::uint64_t bytes) {
  if (bytes < 1000) return fmt::format("{} B", bytes);
  double value = static_cast<double>(bytes);
  const char* unit = "";
  for (const char* name : {"kB", "MB", "GB", "TB", "PB", "EB"}) {
    value /= 1000;
    unit = name;
    if (value < 999.5) break;
  }
  return value < 9.995   ? fmt::format("{:.2f} {}", value, unit)
         : value < 99.95 ? fmt::format("{:.1f} {}", value, unit)
                         : fmt::format("{:.0f} {}", value, unit);
}

std::uint64_t parse_bytes(std::string_view text) {
  const auto fail = [&] {
    throw std::invalid_argument(fmt::format(
        "expected a size such as 4.8GB, 512MiB or 123456, found '{}'", text));
  };
  std::size_t i = 0;
  while (i < text.size() && ((text[i] >= '0' && text[i] <= '9') || text[i] == '.')) ++i;
  if (i == 0 || i > 20) fail();
  const std::string number(text.substr(0, i));
  char* end = nullptr;
  const double value = std::strtod(number.c_str(), &end);
  if (*end != '\0') fail();
  while (i < text.size() && text[i] == ' ') ++i;
  std::string unit(text.substr(i));
  std::ranges::transform(unit, unit.begin(), [](unsigned char c) {
    return static_cast<char>(c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c);
  });
  for (const Unit& known : kUnits) {
    if (unit != known.name) continue;
    const double bytes = std::round(value * known.factor);
    const bool part_of_a_byte = known.factor == 1 && bytes != value;
    if (bytes > 9e18 || bytes < 1 || part_of_a_byte) fail();
    return static_cast<std::uint64_t>(bytes);
  }
  fail();
  return 0;
}

std::string format_duration(double seconds) {
  if (!(seconds >= 0)) seconds = 0;
  if (seconds < 1) return fmt::format("{:.2f} s", seconds);
  if (seconds < 59.95) return fmt::format("{:.1f} s", seconds);
  if (seconds > 1e9) return "forever";
  const auto s = static_cast<long long>(std::llround(seconds));
  if (s < 3600) return fmt::format("{} min {:02} s", s / 60, s % 60);
  return fmt::format("{} h {:02} min", s / 3600, s % 3600 / 60);
}

Table::Table(std::vector<std::string> header) {
  for (std::string& cell : header) {
    right_.push_back(!cell.empty() && cell.front() == '>');
    if (right_.back()) cell.erase(0, 1);
  }
  rows_.push_back(std::move(header));
}

void Table::add_row(std::vector<std::string> cells) {
  OPTIQ_CHECK(cells.size() == right_.size(), "a cell for each column");
  rows_.push_back(std::move(cells));
}

std::string Table::text() const {
  std::vector<std::size_t> widths(right_.size());
  for (const auto& row : rows_)
    for (std::size_t i = 0; i < row.size(); ++i)
      widths[i] = std::max(widths[i], width(row[i]));
  std::string out;
  for (const auto& row : rows_) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) {
      const std::string padding(widths[i] - width(row[i]), ' ');
      if (i > 0) line += "  ";
      line += right_[i] ? padding + row[i] : row[i] + padding;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

}  // namespace optiq
