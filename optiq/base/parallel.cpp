#include "optiq/base/parallel.h"

#include <sched.h>

#include <atomic>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace optiq {
namespace {

constexpr auto kSpin = std::chrono::microseconds(60);

void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ __volatile__("yield");
#endif
}

// Chunks [next, end) that nobody has claimed; on a cache line of its own.
struct alignas(64) Share {
  std::atomic<std::size_t> next{0};
  std::size_t end = 0;
};

// One parallel_for. Lives on the caller's stack while the pool's visitors may still
// look at it.
struct Job {
  internal::ChunkFunction function;
  void* context;
  std::size_t n_chunks;
  Share* shares;
  std::size_t n_shares;
  std::atomic<std::size_t> visitors{0};
  std::atomic<std::size_t> done{0};
};

thread_local bool inside_chunk = false;

// Each thread walks a share of its own, so that what it reads lies in one run of memory
// and what it asks for ahead is its own next chunk. Then it helps with the others'.
void work_on(Job& job) {
  inside_chunk = true;
  const std::size_t first = job.visitors.fetch_add(1, std::memory_order_relaxed);
  for (std::size_t i = 0; i < job.n_shares; ++i) {
    Share& share = job.shares[(first + i) % job.n_shares];
    for (;;) {
      const std::size_t chunk = share.next.fetch_add(1, std::memory_order_relaxed);
      if (chunk >= share.end) break;
      job.function(job.context, chunk);
      job.done.fetch_add(1, std::memory_order_release);
    }
  }
  inside_chunk = false;
}

class Pool {
 public:
  explicit Pool(int n_threads) : shares_(static_cast<std::size_t>(n_threads)) {
    for (int i = 1; i < n_threads; ++i) workers_.emplace_back([this] { worker(); });
  }

  ~Pool() {
    stopping_.store(true);
    epoch_.fetch_add(1, std::memory_order_release);
    epoch_.notify_all();
    for (std::thread& thread : workers_) thread.join();
  }

  int n_threads() const { return static_cast<int>(workers_.size()) + 1; }

  void run(Job& job) {
    std::lock_guard<std::mutex> one_at_a_time(caller_mutex_);
    job.shares = shares_.data();
    job.n_shares = shares_.size();
    for (std::size_t i = 0; i < job.n_shares; ++i) {
      shares_[i].next.store(job.n_chunks * i / job.n_shares, std::memory_order_relaxed);
      shares_[i].end = job.n_chunks * (i + 1) / job.n_shares;
    }
    job_.store(&job, std::memory_order_release);
    // Opens the door: workers that come from now on may look at the job.
    visitors_.store(0, std::memory_order_release);
    epoch_.fetch_add(1, std::memory_order_release);
    if (sleeping_.load(std::memory_order_seq_cst) > 0) epoch_.notify_all();
    work_on(job);
    // Closes it, then waits for chunks in flight and for workers still inside.
    visitors_.fetch_or(kClosed, std::memory_order_acq_rel);
    int spins = 0;
    while (job.done.load(std::memory_order_acquire) < job.n_chunks ||
           visitors_.load(std::memory_order_acquire) != kClosed) {
      if (++spins < 2000)
        pause_cpu();
      else
        std::this_thread::yield();
    }
  }

 private:
  static constexpr std::uint32_t kClosed = 1u << 31;

  bool enter() {
    std::uint32_t now = visitors_.load(std::memory_order_acquire);
    while (!(now & kClosed))
      if (visitors_.compare_exchange_weak(now, now + 1, std::memory_order_acq_rel))
        return true;
    return false;
  }

  void worker() {
    std::uint32_t seen = 0;
    for (;;) {
      wait_for_epoch_after(seen);
      if (stopping_.load()) return;
      seen = epoch_.load(std::memory_order_acquire);
      if (!enter()) continue;
      work_on(*job_.load(std::memory_order_acquire));
      visitors_.fetch_sub(1, std::memory_order_acq_rel);
    }
  }

  void wait_for_epoch_after(std::uint32_t seen) {
    const auto until = std::chrono::steady_clock::now() + kSpin;
    for (int spins = 0;; ++spins) {
      if (epoch_.load(std::memory_order_acquire) != seen) return;
      pause_cpu();
      if (spins % 32 == 31 && std::chrono::steady_clock::now() > until) break;
    }
    sleeping_.fetch_add(1, std::memory_order_seq_cst);
    while (epoch_.load(std::memory_order_seq_cst) == seen) epoch_.wait(seen);
    sleeping_.fetch_sub(1, std::memory_order_relaxed);
  }

  std::vector<std::thread> workers_;
  std::vector<Share> shares_;  // of the job that runs, one a thread
  std::mutex caller_mutex_;
  std::atomic<Job*> job_{nullptr};
  std::atomic<std::uint32_t> visitors_{kClosed};
  std::atomic<std::uint32_t> epoch_{0};
  std::atomic<int> sleeping_{0};
  std::atomic<bool> stopping_{false};
};

// cpu.max of cgroup v2 reads "quota period" or "max period", in microseconds.
int cgroup_cpus() {
  std::FILE* file = std::fopen("/sys/fs/cgroup/cpu.max", "r");
  if (!file) return 0;
  long long quota = 0, period = 0;
  const int n = std::fscanf(file, "%lld %lld", &quota, &period);
  std::fclose(file);
  if (n != 2 || quota <= 0 || period <= 0) return 0;
  return static_cast<int>((quota + period - 1) / period);
}

int default_thread_count() {
  if (const char* wanted = std::getenv("OPTIQ_THREADS"); wanted && *wanted) {
    const std::string_view text = wanted;
    int n = 0;
    const auto [end, error] =
        std::from_chars(text.data(), text.data() + text.size(), n);
    if (error != std::errc() || end != text.data() + text.size() || n < 1 || n > 1024)
      throw std::invalid_argument("OPTIQ_THREADS: expected 1 to 1024, found '" +
                                  std::string(text) + "'");
    return n;
  }
  int n = static_cast<int>(std::thread::hardware_concurrency());
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) n = CPU_COUNT(&set);
  if (const int quota = cgroup_cpus(); quota > 0 && quota < n) n = quota;
#endif
  return n < 1 ? 1 : n;
}

std::mutex pool_mutex;
std::atomic<int> wanted_threads = 0;

// Never destroyed: at exit the workers sleep, and threads of other libraries may still
// be inside a kernel.
std::atomic<Pool*> pool_slot{nullptr};

Pool& pool() {
  if (Pool* now = pool_slot.load(std::memory_order_acquire)) return *now;
  std::lock_guard<std::mutex> lock(pool_mutex);
  if (!pool_slot.load(std::memory_order_relaxed))
    pool_slot.store(new Pool(thread_count()), std::memory_order_release);
  return *pool_slot.load(std::memory_order_relaxed);
}

}  // namespace

int thread_count() {
  static const int automatic = default_thread_count();
  const int wanted = wanted_threads.load(std::memory_order_relaxed);
  return wanted > 0 ? wanted : automatic;
}

void set_thread_count(int n) {
  std::lock_guard<std::mutex> lock(pool_mutex);
  wanted_threads = n < 1 ? 1 : n;
  delete pool_slot.exchange(nullptr);
}

namespace internal {

void run_chunks(std::size_t n_chunks, ChunkFunction function, void* context) {
  if (n_chunks == 0) return;
  if (n_chunks == 1 || inside_chunk || thread_count() == 1) {
    for (std::size_t i = 0; i < n_chunks; ++i) function(context, i);
    return;
  }
  Job job{function, context, n_chunks, nullptr, 0};
  pool().run(job);
}

}  // namespace internal
}  // namespace optiq
