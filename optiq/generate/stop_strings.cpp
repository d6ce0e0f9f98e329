#include "optiq/generate/stop_strings.h"

#include <algorithm>
#include <utility>

namespace optiq::generation {

StopStrings::StopStrings(std::vector<std::string> stops) : stops_(std::move(stops)) {
  std::erase(stops_, "");
}

std::string StopStrings::feed(std::string_view piece) {
  if (found()) return "";
  held_ += piece;
  std::size_t first = std::string::npos;
  for (const std::string& stop : stops_) {
    const std::size_t at = held_.find(stop);
    if (at == std::string::npos) continue;
    // Of two that begin together the longer one is what the text says.
    if (at < first || (at == first && stop.size() > match_.size())) {
      first = at;
      match_ = stop;
    }
  }
  if (found()) {
    std::string text = held_.substr(0, first);
    held_.clear();
    return text;
  }
  std::size_t keep = 0;  // the longest end of the text that begins a stop string
  for (const std::string& stop : stops_)
    for (std::size_t n = std::min(stop.size() - 1, held_.size()); n > keep; --n)
      if (std::string_view(held_).substr(held_.size() - n) ==
          std::string_view(stop).substr(0, n)) {
        keep = n;
        break;
      }
  std::string text = held_.substr(0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return text;
}

std::string StopStrings::finish() { return std::exchange(held_, std::string()); }

}  // namespace optiq::generation
