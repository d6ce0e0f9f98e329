#include "optiq/cache/page_list.h"

#include <utility>

#include "optiq/kernels/kv_page/kv_layout.h"

namespace optiq::cache {
namespace {

int pages_of(int tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

}  // namespace

PageList::PageList(std::shared_ptr<PageStore> store, int first_pages)
    : table_(std::make_shared<Table>(Table{std::move(store), {}, {}})),
      first_pages_(first_pages) {}

PageList::PageList(const PageList& other)
    : table_(std::make_shared<Table>(*other.table_)),
      first_pages_(other.first_pages_) {}

PageList::Table& PageList::own_table() {
  if (table_.use_count() > 1) table_ = std::make_shared<Table>(*table_);
  return *table_;
}

void PageList::prepare(int begin, int end) {
  Table& table = own_table();
  std::vector<std::pair<int, PageRef>> fresh;
  for (int page = begin / kPageTokens; page < pages_of(end); ++page) {
    const auto at = static_cast<std::size_t>(page);
    if (page < size() && !table.pages[at].is_shared()) continue;
    fresh.emplace_back(page, table.store->allocate(kind(page)));
    if (page < size())
      table.store->memory().copy(fresh.back().second.data(), table.data[at],
                                 table.store->page_bytes(kind(page)));
  }
  table.pages.reserve(table.pages.size() + fresh.size());
  table.data.reserve(table.data.size() + fresh.size());
  for (auto& [page, ref] : fresh) {
    const auto at = static_cast<std::size_t>(page);
    if (page == size()) {
      table.pages.emplace_back();
      table.data.push_back(nullptr);
    }
    table.data[at] = ref.data();
    table.pages[at] = std::move(ref);
  }
}

void PageList::truncate(int length) {
  if (pages_of(length) >= size()) return;
  Table& table = own_table();
  table.pages.resize(static_cast<std::size_t>(pages_of(length)));
  table.data.resize(table.pages.size());
}

}  // namespace optiq::cache
