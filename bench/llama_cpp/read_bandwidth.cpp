// How fast THREADS threads read memory together, in GB/s: the bound on decoding.
//
//   read_bandwidth THREADS   prints the best of 10 passes over 1 GiB
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

namespace {

// Eight independent sums of four words keep several cache lines in flight; the
// compiler makes each a vector register.
std::uint64_t sum(const std::uint64_t* p, std::size_t n) {
  std::uint64_t sums[32] = {};
  for (std::size_t i = 0; i < n; i += 32)
    for (int j = 0; j < 32; ++j) sums[j] += p[i + j];
  std::uint64_t total = 0;
  for (const std::uint64_t s : sums) total += s;
  return total;
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  if (threads < 1 || threads > 64) {
    std::fprintf(stderr, "usage: read_bandwidth THREADS, 1 to 64\n");
    return 2;
  }
  constexpr std::size_t kBytes = std::size_t{1} << 30;
  const std::vector<std::uint64_t> memory(kBytes / sizeof(std::uint64_t), 1);
  const std::size_t share = memory.size() / threads / 32 * 32;
  double best = 0;
  std::uint64_t total = 0;
  for (int pass = 0; pass < 10; ++pass) {
    std::vector<std::uint64_t> sums(threads);
    std::vector<std::thread> workers;
    const auto start = std::chrono::steady_clock::now();
    for (int t = 0; t < threads; ++t)
      workers.emplace_back([&, t] { sums[t] = sum(&memory[t * share], share); });
    for (std::thread& worker : workers) worker.join();
    const std::chrono::duration<double> taken =
        std::chrono::steady_clock::now() - start;
    for (const std::uint64_t s : sums) total += s;
    best = std::max(best, 8.0 * share * threads / taken.count() / 1e9);
  }
  // Printing the sum keeps the reads from being left out.
  std::printf("{\"gb_per_s\": %.2f, \"checksum\": %llu}\n", best,
              static_cast<unsigned long long>(total));
}
