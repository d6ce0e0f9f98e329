#include "optiq/base/parallel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

namespace optiq {
namespace {

// Gives the pool a number of threads and afterwards the old one.
class WithThreads {
 public:
  explicit WithThreads(int n) : before_(thread_count()) { set_thread_count(n); }
  ~WithThreads() { set_thread_count(before_); }

 private:
  int before_;
};

std::vector<int> visits(std::size_t n_chunks) {
  std::vector<int> counts(n_chunks, 0);  // not atomic: each chunk has one of its own
  parallel_for(n_chunks, [&](std::size_t chunk) { ++counts[chunk]; });
  return counts;
}

TEST(Parallel, EachChunkRunsOnceAndIsSeenByTheCaller) {
  for (int threads : {1, 2, 3, 16}) {
    const WithThreads pool(threads);
    for (int round = 0; round < 200; ++round)
      for (std::size_t n : {0u, 1u, 2u, 17u, 300u})
        ASSERT_EQ(visits(n), std::vector<int>(n, 1)) << threads << " threads";
  }
}

TEST(Parallel, RangesCoverEveryItemOnce) {
  const WithThreads pool(3);
  for (std::size_t n : {0u, 1u, 9u, 10u, 11u, 1000u})
    for (std::size_t grain : {0u, 1u, 10u, 5000u}) {
      std::vector<int> counts(n, 0);
      parallel_ranges(n, grain, [&](std::size_t begin, std::size_t end) {
        EXPECT_LT(begin, end);
        for (std::size_t i = begin; i < end; ++i) ++counts[i];
      });
      EXPECT_EQ(counts, std::vector<int>(n, 1)) << n << " by " << grain;
    }
}

TEST(Parallel, ACallFromInsideAChunkRunsAlone) {
  const WithThreads pool(4);
  std::atomic<int> total{0};
  parallel_for(20, [&](std::size_t) {
    const auto self = std::this_thread::get_id();
    parallel_for(5, [&](std::size_t) {
      EXPECT_EQ(std::this_thread::get_id(), self);
      ++total;
    });
  });
  EXPECT_EQ(total, 100);
}

TEST(Parallel, CallersOnDifferentThreadsDoNotMixUpTheirChunks) {
  const WithThreads pool(3);
  std::vector<std::thread> callers;
  std::atomic<int> wrong{0};
  for (int c = 0; c < 4; ++c)
    callers.emplace_back([&] {
      for (int round = 0; round < 100; ++round)
        if (visits(13) != std::vector<int>(13, 1)) ++wrong;
    });
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(wrong, 0);
}

TEST(Parallel, WorkersWakeAfterTheyHaveSlept) {
  const WithThreads pool(2);
  for (int round = 0; round < 20; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));  // spins are 60 us
    ASSERT_EQ(visits(50), std::vector<int>(50, 1));
  }
}

TEST(Parallel, ANumberOfThreadsBelowOneIsOne) {
  const WithThreads pool(-3);
  EXPECT_EQ(thread_count(), 1);
  EXPECT_EQ(visits(3), std::vector<int>(3, 1));
}

}  // namespace
}  // namespace optiq
