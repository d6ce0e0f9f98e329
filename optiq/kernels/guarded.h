// Memory for tests of kernels: it ends where readable memory ends.
#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <span>
#include <vector>

namespace optiq::testing {

/// The byte behind the last one lies in a page that nobody may touch, so that a vector
/// which reads or writes past the end faults. The bytes before the first one are 0xff,
/// as floats NaN: a read of them shows in the result, a write aborts when the memory is
/// given back.
template <class T>
struct GuardedAllocator {
  using value_type = T;

  GuardedAllocator() = default;
  template <class Other>
  GuardedAllocator(const GuardedAllocator<Other>&) {}

  T* allocate(std::size_t n) {
    const Layout layout(n * sizeof(T));
    void* map = mmap(nullptr, layout.mapped, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) throw std::bad_alloc();
    auto* base = static_cast<char*>(map);
    std::memset(base, 0xff, layout.before);
    if (mprotect(base + layout.mapped - layout.page, layout.page, PROT_NONE) != 0)
      std::abort();
    return reinterpret_cast<T*>(base + layout.before);
  }

  void deallocate(T* p, std::size_t n) {
    const Layout layout(n * sizeof(T));
    char* base = reinterpret_cast<char*>(p) - layout.before;
    for (std::size_t i = 0; i < layout.before; ++i)
      if (base[i] != '\xff') {
        std::fprintf(stderr, "a kernel wrote %zu bytes before an array\n",
                     layout.before - i);
        std::abort();
      }
    munmap(base, layout.mapped);
  }

  friend bool operator==(GuardedAllocator, GuardedAllocator) { return true; }

 private:
  struct Layout {
    explicit Layout(std::size_t size)
        : page(static_cast<std::size_t>(sysconf(_SC_PAGESIZE))),
          mapped((size + page - 1) / page * page + page),
          before(mapped - page - size) {}
    std::size_t page, mapped, before;
  };
};

/// Requires  made in its final size, or assigned: growth leaves room behind the end.
template <class T>
using Guarded = std::vector<T, GuardedAllocator<T>>;

using GuardedFloats = Guarded<float>;

template <class T>
Guarded<T> guarded(const std::vector<T>& values) {
  return {values.begin(), values.end()};
}

}  // namespace optiq::testing
