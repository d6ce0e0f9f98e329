#include "optiq/kernels/attention/page_table_primitive.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "optiq/kernels/host_primitive.h"
#include "optiq/kernels/kv_page/kv_page_cuda.h"

namespace optiq::kernels {
namespace {

int pages_of(const Segment& s) {
  return (s.cached + s.tokens + kPageTokens - 1) / kPageTokens;
}

constexpr std::size_t kWordsOfRows = sizeof(cuda::PagedRows) / 4;

std::vector<std::uint32_t> words_of(std::span<const Segment> segments,
                                    std::span<const PagedKv> pages, int room) {
  const std::size_t n = segments.size(), each = static_cast<std::size_t>(room);
  std::vector<std::uint32_t> words(n * (kWordsOfRows + 2 * each));
  std::uint32_t* addresses = words.data() + n * kWordsOfRows;
  std::int32_t row = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const Segment& s = segments[i];
    const cuda::PagedRows rows{row, s.tokens, s.cached,
                               static_cast<std::int32_t>(i * each)};
    std::memcpy(words.data() + i * kWordsOfRows, &rows, sizeof rows);
    const auto count = static_cast<std::size_t>(pages_of(s));
    if (count > 0)
      std::memcpy(addresses + 2 * i * each, pages[i].pages.pages,
                  count * sizeof(std::byte*));
    row += s.tokens;
  }
  return words;
}

}  // namespace

PageTable make_page_table(std::span<const Segment> segments,
                          std::span<const PagedKv> pages, int room) {
  for (const Segment& s : segments) room = std::max(room, pages_of(s));
  const auto words = words_of(segments, pages, room);
  return {mx::array(words.data(), {static_cast<int>(words.size())}, mx::uint32),
          static_cast<int>(segments.size()), room};
}

bool fits(const PageTable& table, std::span<const Segment> segments) {
  return static_cast<int>(segments.size()) == table.sequences &&
         std::ranges::all_of(
             segments, [&](const Segment& s) { return pages_of(s) <= table.room; });
}

void rewrite_page_table(PageTable& table, std::span<const Segment> segments,
                        std::span<const PagedKv> pages) {
  overwrite(table.words, words_of(segments, pages, table.room).data());
}

}  // namespace optiq::kernels
