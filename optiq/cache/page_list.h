// The pages of one sequence: taken as it grows, shared when it is forked.
#pragma once
#include <memory>
#include <utility>
#include <vector>

#include "optiq/cache/page_store.h"

namespace optiq::cache {

/// Page i holds tokens [64 i, 64 i + 64). A copy is a fork: it shares every page until
/// one of the two is about to write it; only the last, partly filled one can be.
///
/// Threads   used by one thread at a time, forks of it by others.
class PageList {
 public:
  /// The first `first_pages` pages are of kind 0 of the store, the others of kind 1.
  PageList(std::shared_ptr<PageStore> store, int first_pages);
  PageList(const PageList& other);
  PageList(PageList&&) noexcept = default;
  PageList& operator=(PageList other) noexcept {
    std::swap(table_, other.table_);
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

  int size() const { return static_cast<int>(table_->data.size()); }

  /// Where the pages lie, until the next change.
  std::byte* const* data() const { return table_->data.data(); }

  /// Pages of kind 0, as far as there are so many.
  int first_pages() const { return first_pages_; }

  /// What keeps data() and the pages as they are: while anybody has it, a change works
  /// on a copy.
  std::shared_ptr<const void> owner() const { return table_; }

 private:
  struct Table {
    std::shared_ptr<PageStore> store;  // goes after its pages
    std::vector<PageRef> pages;
    std::vector<std::byte*> data;  // of each page
  };

  int kind(int page) const { return page < first_pages_ ? 0 : 1; }
  Table& own_table();

  std::shared_ptr<Table> table_;
  int first_pages_;
};

}  // namespace optiq::cache
