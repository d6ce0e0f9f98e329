#include "bandwidth.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <memory>

#include "optiq/base/parallel.h"

namespace optiq::app {
namespace {

constexpr std::size_t kBytes = std::size_t{256} << 20;
constexpr std::size_t kWords = kBytes / sizeof(std::uint64_t);
constexpr std::size_t kGrain = kWords / 256;

// Independent sums, so that loads are what it waits for.
std::uint64_t sum(const std::uint64_t* words, std::size_t n) {
  std::array<std::uint64_t, 16> parts{};
  for (std::size_t i = 0; i + parts.size() <= n; i += parts.size())
    for (std::size_t j = 0; j < parts.size(); ++j) parts[j] += words[i + j];
  std::uint64_t total = 0;
  for (const std::uint64_t part : parts) total += part;
  return total;
}

}  // namespace

double read_bandwidth() {
  const std::unique_ptr<std::uint64_t[]> words(new std::uint64_t[kWords]);
  parallel_ranges(kWords, kGrain, [&](std::size_t begin, std::size_t end) {
    std::fill(words.get() + begin, words.get() + end, begin);
  });
  std::array<double, 5> rates{};
  static std::uint64_t volatile sink = 0;
  for (double& rate : rates) {
    std::array<std::uint64_t, 256> sums{};
    const auto start = std::chrono::steady_clock::now();
    parallel_ranges(kWords, kGrain, [&](std::size_t begin, std::size_t end) {
      sums[begin / kGrain] = sum(words.get() + begin, end - begin);
    });
    const std::chrono::duration<double> seconds =
        std::chrono::steady_clock::now() - start;
    for (const std::uint64_t part : sums) sink = sink + part;
    rate = static_cast<double>(kBytes) / seconds.count();
  }
  std::nth_element(rates.begin(), rates.begin() + rates.size() / 2, rates.end());
  return rates[rates.size() / 2];
}

}  // namespace optiq::app
