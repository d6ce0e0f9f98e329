// Memory for the pages of key-value caches: counted references, a hard budget, exact
// books.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

#include "optiq/kernels/kv_page/page_memory.h"

namespace optiq::cache {

class PageStore;

/// Where the bytes of a store are: free + used + shared = total at all times.
struct PageStoreUse {
  std::uint64_t free_bytes = 0;    // pages that nobody holds
  std::uint64_t used_bytes = 0;    // pages that one holder has, and what is reserved
  std::uint64_t shared_bytes = 0;  // pages that several have, each counted once
  std::uint64_t total_bytes = 0;   // asked of the system, and what is reserved

  friend bool operator==(const PageStoreUse&, const PageStoreUse&) = default;
};

/// A hold on a page; copies share it, and the last one gives it back.
///
/// Threads   one a hold; holds of one page may live in different threads.
class PageRef {
 public:
  PageRef() = default;
  PageRef(const PageRef& other);
  PageRef(PageRef&& other) noexcept : page_(other.page_) { other.page_ = nullptr; }
  PageRef& operator=(PageRef other) noexcept {
    std::swap(page_, other.page_);
    return *this;
  }
  ~PageRef();

  std::byte* data() const;

  /// True while another holds the page too. Once false it stays so until this hold is
  /// copied.
  bool is_shared() const;

 private:
  friend class PageStore;
  struct Page;
  explicit PageRef(Page* page) : page_(page) {}

  Page* page_ = nullptr;
};

/// Bytes counted in a store that are not pages, such as recurrent states; given back
/// when it dies.
class Reservation {
 public:
  Reservation() = default;
  Reservation(Reservation&& other) noexcept
      : store_(other.store_), bytes_(other.bytes_) {
    other.store_ = nullptr;
  }
  Reservation& operator=(Reservation&& other) noexcept {
    std::swap(store_, other.store_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Reservation();

 private:
  friend class PageStore;
  Reservation(PageStore* store, std::uint64_t bytes) : store_(store), bytes_(bytes) {}

  PageStore* store_ = nullptr;
  std::uint64_t bytes_ = 0;
};

/// Pages of a few sizes (kinds). Memory is asked of the system in slabs of about 4 MB,
/// not touched before it is used, and given back with the last page of a slab.
///
/// Requires  outlives every PageRef and Reservation
/// Threads   any
class PageStore {
 public:
  /// Requires  each size a multiple of 64
  PageStore(std::vector<std::size_t> page_bytes, std::uint64_t budget_bytes,
            const PageMemory& memory = host_page_memory());
  ~PageStore();
  PageStore(const PageStore&) = delete;
  PageStore& operator=(const PageStore&) = delete;

  /// A page of zeros, at a multiple of 64 bytes, that nobody else holds.
  ///
  /// Throws    ResourceError if the budget or the system has no room for it
  PageRef allocate(int kind);

  /// Throws    ResourceError if the budget has no room for it
  Reservation reserve(std::uint64_t bytes);

  PageStoreUse use() const;
  std::uint64_t budget_bytes() const { return budget_bytes_; }
  const PageMemory& memory() const { return memory_; }
  std::size_t page_bytes(int kind) const {
    return kinds_[static_cast<std::size_t>(kind)].page_bytes;
  }

 private:
  friend class PageRef;
  friend class Reservation;
  struct Slab;
  struct Kind {
    std::size_t page_bytes;
    std::map<std::uint64_t, std::unique_ptr<Slab>> slabs;  // by number
    std::set<std::uint64_t> open;                          // with a free page
  };

  Slab& open_slab(Kind& kind);
  void add_hold(PageRef::Page& page);
  void drop_hold(PageRef::Page& page);
  void unreserve(std::uint64_t bytes);

  mutable std::mutex mutex_;
  std::vector<Kind> kinds_;
  PageStoreUse use_;
  std::uint64_t budget_bytes_;
  const PageMemory& memory_;
  std::uint64_t next_slab_ = 0;
};

}  // namespace optiq::cache
