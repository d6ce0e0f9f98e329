#include "optiq/base/read_bandwidth.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

#include "optiq/base/parallel.h"

namespace optiq {
namespace {

constexpr std::size_t kPage = std::size_t{2} << 20;
constexpr std::size_t kChunk = std::size_t{256} << 10;
constexpr std::size_t kAhead = 8192;  // in the second level cache in time

// Independent sums, so that loads are what it waits for.
std::uint64_t sum(const char* p) {
  typedef std::uint64_t Wide __attribute__((vector_size(64), may_alias));
  std::array<Wide, 4> parts{};
  for (std::size_t i = 0; i < kChunk; i += sizeof parts)
    for (std::size_t j = 0; j < parts.size(); ++j) {
      __builtin_prefetch(p + i + kAhead + j * sizeof(Wide), 0, 2);
      parts[j] += *reinterpret_cast<const Wide*>(p + i + j * sizeof(Wide));
    }
  const Wide all = parts[0] + parts[1] + parts[2] + parts[3];
  return all[0] + all[7];
}

}  // namespace

ReadBandwidth::ReadBandwidth(std::size_t size)
    : size_((size + kPage - 1) / kPage * kPage) {
  void* memory =
      mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  data_ = static_cast<char*>(memory);
#if defined(MADV_HUGEPAGE)
  madvise(data_, size_, MADV_HUGEPAGE);
#endif
  std::memset(data_, 1, size_);
}

ReadBandwidth::~ReadBandwidth() { munmap(data_, size_); }

double ReadBandwidth::measure(std::size_t piece) {
  piece = piece == 0 ? size_ : std::min(size_, piece / kChunk * kChunk);
  if (next_ + piece > size_) next_ = 0;
  const char* from = data_ + next_;
  next_ += piece;
  std::vector<std::uint64_t> sums(piece / kChunk);
  const auto start = std::chrono::steady_clock::now();
  parallel_for(sums.size(), [&](std::size_t i) { sums[i] = sum(from + i * kChunk); });
  const std::chrono::duration<double> seconds =
      std::chrono::steady_clock::now() - start;
  static volatile std::uint64_t sink = 0;
  for (const std::uint64_t part : sums) sink = sink + part;
  return static_cast<double>(piece) / seconds.count();
}

double ReadBandwidth::median() {
  std::array<double, 7> rates{};
  for (double& rate : rates) rate = measure();
  std::ranges::nth_element(rates, rates.begin() + rates.size() / 2);
  return rates[rates.size() / 2];
}

}  // namespace optiq
