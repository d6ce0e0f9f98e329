#include "optiq/cache/page_list.h"

#include <cstring>
#include <utility>

namespace optiq::cache {
namespace {

int pages_of(int tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

}  // namespace

void PageList::prepare(int begin, int end) {
  std::vector<std::pair<int, PageRef>> fresh;
  for (int page = begin / kPageTokens; page < pages_of(end); ++page) {
    if (page < size() && !(*this)[page].is_shared()) continue;
    fresh.emplace_back(page, store_->allocate(kind(page)));
    if (page < size())
      std::memcpy(fresh.back().second.data(), (*this)[page].data(),
                  store_->page_bytes(kind(page)));
  }
  pages_.reserve(pages_.size() + fresh.size());
  for (auto& [page, ref] : fresh) {
    if (page < size())
      pages_[static_cast<std::size_t>(page)] = std::move(ref);
    else
      pages_.push_back(std::move(ref));
  }
}

void PageList::truncate(int length) {
  if (pages_of(length) < size())
    pages_.resize(static_cast<std::size_t>(pages_of(length)));
}

}  // namespace optiq::cache
