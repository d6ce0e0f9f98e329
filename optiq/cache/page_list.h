// The pages of one sequence: taken as it grows, shared when it is forked.
#pragma once
#include <memory>
#include <utility>
#include <vector>

#include "optiq/cache/page_store.h"

namespace optiq::cache {

/// Tokens of a page: the block of keys that attention walks by.
constexpr int kPageTokens = 64;

/// Page i holds tokens [64 i, 64 i + 64). A copy is a fork: it shares every page until
/// one of the two is about to write it; only the last, partly filled one can be.
///
/// Threads   used by one thread at a time, forks of it by others.
class PageList {
 public:
  /// The first `first_pages` pages are of kind 0 of the store, the others of kind 1.
  PageList(std::shared_ptr<PageStore> store, int first_pages)
      : store_(std::move(store)), first_pages_(first_pages) {}
  PageList(const PageList&) = default;
  PageList(PageList&&) noexcept = default;
  PageList& operator=(PageList other) noexcept {  // pages go before their store
    std::swap(store_, other.store_);
    std::swap(pages_, other.pages_);
    std::swap(first_pages_, other.first_pages_);
    return *this;
  }

  /// Makes tokens [begin, end) writable: their pages exist and have no other holder.
  ///
  /// Requires  begin <= end, pages for all tokens before `begin`
  /// Throws    ResourceError; the list is as it was
  void prepare(int begin, int end);

  /// Gives back the pages behind the first `length` tokens.
  void truncate(int length);

  int size() const { return static_cast<int>(pages_.size()); }
  const PageRef& operator[](int i) const { return pages_[static_cast<std::size_t>(i)]; }

  /// Pages of kind 0.
  int first_pages() const { return first_pages_; }

 private:
  int kind(int page) const { return page < first_pages_ ? 0 : 1; }

  std::shared_ptr<PageStore> store_;
  int first_pages_;
  std::vector<PageRef> pages_;
};

}  // namespace optiq::cache
