// What the tests of this folder share.
#pragma once
#include <vector>

namespace optiq::sensitivity {

/// n windows of ids from 0 to 511, always the same.
inline std::vector<std::vector<int>> windows(int n, int length) {
  std::vector<std::vector<int>> all(static_cast<std::size_t>(n));
  unsigned state = 17;
  for (auto& window : all)
    for (int i = 0; i < length; ++i)
      window.push_back(static_cast<int>((state = state * 1664525 + 1013904223) >> 23));
  return all;
}

}  // namespace optiq::sensitivity
