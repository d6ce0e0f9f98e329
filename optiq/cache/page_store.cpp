#include "optiq/cache/page_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "optiq/base/error.h"
#include "optiq/base/format.h"

namespace optiq::cache {

struct PageRef::Page {
  std::byte* data = nullptr;
  PageStore* store = nullptr;
  PageStore::Slab* slab = nullptr;
  bool written = false;           // by an earlier holder
  std::atomic<int> references{};  // changed under the store's lock
};

struct PageStore::Slab {
  Slab(std::uint64_t number_, int kind_, std::size_t page_bytes, std::size_t n_pages,
       PageStore* store)
      : number(number_),
        kind(kind_),
        bytes(page_bytes * n_pages),
        source(store->memory()),
        memory(source.allocate(bytes)),
        pages(n_pages) {
    if (memory == nullptr)
      throw ResourceError(fmt::format("key-value cache: the system has no {} more",
                                      format_bytes(bytes)));
    for (std::size_t i = n_pages; i-- > 0;) {
      pages[i].data = memory + i * page_bytes;
      pages[i].store = store;
      pages[i].slab = this;
      free.push_back(&pages[i]);
    }
  }
  ~Slab() { source.free(memory, bytes); }
  Slab(const Slab&) = delete;
  Slab& operator=(const Slab&) = delete;

  std::uint64_t number;
  int kind;
  std::size_t bytes;
  const PageMemory& source;
  std::byte* memory;
  std::vector<PageRef::Page> pages;
  std::vector<PageRef::Page*> free;  // the next one to hand out is the last
};

PageRef::PageRef(const PageRef& other) : page_(other.page_) {
  if (page_ != nullptr) page_->store->add_hold(*page_);
}

PageRef::~PageRef() {
  if (page_ != nullptr) page_->store->drop_hold(*page_);
}

std::byte* PageRef::data() const { return page_->data; }

bool PageRef::is_shared() const {
  return page_->references.load(std::memory_order_acquire) > 1;
}

Reservation::~Reservation() {
  if (store_ != nullptr) store_->unreserve(bytes_);
}

PageStore::PageStore(std::vector<std::size_t> page_bytes, std::uint64_t budget_bytes,
                     const PageMemory& memory)
    : budget_bytes_(budget_bytes), memory_(memory) {
  for (const std::size_t bytes : page_bytes) {
    OPTIQ_CHECK(bytes % 64 == 0, "a page is a multiple of 64 bytes");
    kinds_.push_back({bytes, {}, {}});
  }
}

PageStore::~PageStore() = default;

PageStore::Slab& PageStore::open_slab(Kind& kind) {
  // The oldest first, so that later ones empty and go back.
  if (!kind.open.empty()) return *kind.slabs.at(*kind.open.begin());

  const std::uint64_t left = budget_bytes_ - use_.total_bytes;
  const std::size_t wanted =
      std::max<std::size_t>(1, memory_.slab_bytes() / kind.page_bytes);
  const std::size_t n_pages = std::min<std::uint64_t>(wanted, left / kind.page_bytes);
  if (n_pages == 0)
    throw ResourceError(fmt::format(
        "key-value cache: expected room for a page of {}, found {} left of the budget "
        "of {}",
        format_bytes(kind.page_bytes), format_bytes(left),
        format_bytes(budget_bytes_)));
  const std::uint64_t number = next_slab_++;
  const int index = static_cast<int>(&kind - kinds_.data());
  auto slab = std::make_unique<Slab>(number, index, kind.page_bytes, n_pages, this);
  use_.total_bytes += slab->bytes;
  use_.free_bytes += slab->bytes;
  kind.open.insert(number);
  return *(kind.slabs[number] = std::move(slab));
}

PageRef PageStore::allocate(int kind_index) {
  Kind& kind = kinds_[static_cast<std::size_t>(kind_index)];
  PageRef::Page* page = nullptr;
  {
    const std::lock_guard lock(mutex_);
    Slab& slab = open_slab(kind);
    page = slab.free.back();
    slab.free.pop_back();
    if (slab.free.empty()) kind.open.erase(slab.number);
    page->references = 1;
    use_.free_bytes -= kind.page_bytes;
    use_.used_bytes += kind.page_bytes;
  }
  PageRef ref(page);
  if (std::exchange(page->written, true) || !memory_.starts_zero())
    memory_.zero(page->data, kind.page_bytes);
  return ref;
}

void PageStore::add_hold(PageRef::Page& page) {
  const std::lock_guard lock(mutex_);
  if (page.references++ != 1) return;
  const std::uint64_t bytes = page_bytes(page.slab->kind);
  use_.used_bytes -= bytes;
  use_.shared_bytes += bytes;
}

void PageStore::drop_hold(PageRef::Page& page) {
  const std::lock_guard lock(mutex_);
  Slab& slab = *page.slab;
  Kind& kind = kinds_[static_cast<std::size_t>(slab.kind)];
  const int left = --page.references;
  if (left == 1) {
    use_.shared_bytes -= kind.page_bytes;
    use_.used_bytes += kind.page_bytes;
  }
  if (left != 0) return;
  use_.used_bytes -= kind.page_bytes;
  use_.free_bytes += kind.page_bytes;
  slab.free.push_back(&page);
  kind.open.insert(slab.number);
  if (slab.free.size() < slab.pages.size()) return;
  use_.free_bytes -= slab.bytes;
  use_.total_bytes -= slab.bytes;
  kind.open.erase(slab.number);
  kind.slabs.erase(slab.number);
}

Reservation PageStore::reserve(std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  if (bytes > budget_bytes_ - use_.total_bytes)
    throw ResourceError(fmt::format(
        "key-value cache: expected room for a state of {}, found {} left of the budget "
        "of {}",
        format_bytes(bytes), format_bytes(budget_bytes_ - use_.total_bytes),
        format_bytes(budget_bytes_)));
  use_.total_bytes += bytes;
  use_.used_bytes += bytes;
  return {this, bytes};
}

void PageStore::unreserve(std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  use_.total_bytes -= bytes;
  use_.used_bytes -= bytes;
}

PageStoreUse PageStore::use() const {
  const std::lock_guard lock(mutex_);
  return use_;
}

}  // namespace optiq::cache
