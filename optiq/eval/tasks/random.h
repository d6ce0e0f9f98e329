// Random choices that are the same on every platform.
#pragma once
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string_view>
#include <utility>

namespace optiq::eval {

/// The standard library's distributions may differ from one library to the next; these
/// do not.
///
/// Source    SplitMix64: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number
///           generators"
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  /// The stream of one case: other tasks, seeds, lengths and indices give others.
  Random(std::string_view task, std::uint64_t seed, int length, int index);

  std::uint64_t next();

  /// Of 0 ... n - 1, each as likely as the others but for n in 2^32.
  ///
  /// Requires  0 < n < 2^31
  int below(int n) {
    return static_cast<int>(((next() >> 32) * static_cast<std::uint64_t>(n)) >> 32);
  }

  /// From `first` to `last`, both possible.
  int between(int first, int last) { return first + below(last - first + 1); }

  bool coin() { return below(2) == 1; }

  /// One of an array, vector or span.
  template <class Values>
  const auto& pick(const Values& values) {
    return std::data(values)[below(static_cast<int>(std::size(values)))];
  }

  /// Fisher and Yates.
  template <class Values>
  void shuffle(Values& values) {
    for (std::size_t n = values.size(); n > 1; --n)
      std::swap(values[n - 1],
                values[static_cast<std::size_t>(below(static_cast<int>(n)))]);
  }

 private:
  std::uint64_t state_;
};

}  // namespace optiq::eval
