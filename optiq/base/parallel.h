// The one thread pool that kernels share.
//
// Work is cut into chunks that threads claim one at a time, the caller among them, each
// in order from a share of its own and then from what the others have left. A worker
// that the system has put aside claims nothing, so nobody waits for it: the others
// finish its chunks, and at the end the caller waits only for chunks that have been
// started. Idle workers spin for some microseconds, then sleep.
#pragma once
#include <cstddef>
#include <type_traits>

namespace optiq {

/// Threads that kernels use, the caller counted. Default: the CPUs this process may
/// run on (affinity and cgroup quota respected), or OPTIQ_THREADS.
int thread_count();

/// Sets the number of threads (at least 1). Not while kernels run.
void set_thread_count(int n);

namespace internal {
using ChunkFunction = void (*)(void* context, std::size_t chunk);
void run_chunks(std::size_t n_chunks, ChunkFunction function, void* context);
}  // namespace internal

/// Calls f(chunk) for each chunk in [0, n_chunks), on several threads, and returns when
/// all have returned.
///
/// Requires  f is noexcept in effect: an exception in it ends the program.
/// Threads   callers on different threads take turns; a call from inside f runs alone,
///           on the thread that made it.
/// Cost      about a microsecond when workers are awake; some tens when they sleep.
template <class F>
void parallel_for(std::size_t n_chunks, F&& f) {
  using Function = std::remove_reference_t<F>;
  internal::run_chunks(
      n_chunks,
      [](void* context, std::size_t chunk) noexcept {
        (*static_cast<Function*>(context))(chunk);
      },
      const_cast<void*>(static_cast<const void*>(&f)));
}

/// Calls f(begin, end) for ranges that cover [0, n), each of `grain` items or fewer.
template <class F>
void parallel_ranges(std::size_t n, std::size_t grain, F&& f) {
  if (grain == 0) grain = 1;
  parallel_for((n + grain - 1) / grain, [&](std::size_t chunk) {
    const std::size_t begin = chunk * grain;
    f(begin, begin + grain < n ? begin + grain : n);
  });
}

}  // namespace optiq
