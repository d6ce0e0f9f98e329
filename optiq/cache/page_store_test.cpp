#include "optiq/cache/page_store.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <thread>

#include "optiq/base/error.h"
#include "optiq/cache/page_list.h"
#include "optiq/kernels/kv_page/kv_layout.h"

namespace optiq::cache {
namespace {

constexpr std::size_t kFirstBytes = 1024, kRestBytes = 512;  // of a page, by kind
constexpr std::uint64_t kPlenty = std::uint64_t{1} << 30;

void expect_balance(const PageStore& store) {
  const PageStoreUse use = store.use();
  EXPECT_EQ(use.free_bytes + use.used_bytes + use.shared_bytes, use.total_bytes);
  EXPECT_LE(use.total_bytes, store.budget_bytes());
}

TEST(PageStore, APageIsCountedAsFreeUsedOrShared) {
  PageStore store({kFirstBytes}, kPlenty);
  EXPECT_EQ(store.use(), PageStoreUse{});
  PageRef first = store.allocate(0);
  const std::uint64_t slab = store.use().total_bytes;
  EXPECT_EQ(store.use(), (PageStoreUse{slab - kFirstBytes, kFirstBytes, 0, slab}));
  {
    const PageRef second =
        first;  // NOLINT(performance-unnecessary-copy-initialization)
    const PageRef third =
        second;  // NOLINT(performance-unnecessary-copy-initialization)
    EXPECT_TRUE(first.is_shared());
    EXPECT_EQ(store.use(), (PageStoreUse{slab - kFirstBytes, 0, kFirstBytes, slab}));
  }
  EXPECT_FALSE(first.is_shared());
  EXPECT_EQ(store.use(), (PageStoreUse{slab - kFirstBytes, kFirstBytes, 0, slab}));
  first = PageRef();
  EXPECT_EQ(store.use(), PageStoreUse{});  // the slab went back
}

TEST(PageStore, APageThatIsTakenAgainIsZero) {
  PageStore store({kFirstBytes}, kPlenty);
  const PageRef keeps_the_slab = store.allocate(0);
  PageRef page = store.allocate(0);
  const std::byte* const memory = page.data();
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(memory) % 64, 0u);
  std::memset(page.data(), 0xff, kFirstBytes);
  page = PageRef();
  page = store.allocate(0);
  ASSERT_EQ(page.data(), memory);
  EXPECT_EQ(std::count(memory, memory + kFirstBytes, std::byte{0}),
            static_cast<std::ptrdiff_t>(kFirstBytes));
}

TEST(PageStore, TheBudgetIsUsedToTheLastPageAndNotExceeded) {
  constexpr std::uint64_t kBudget = 10 * kFirstBytes + kRestBytes + 100;
  PageStore store({kFirstBytes, kRestBytes}, kBudget);
  std::vector<PageRef> pages;
  for (int i = 0; i < 10; ++i) pages.push_back(store.allocate(0));
  EXPECT_THROW(store.allocate(0), ResourceError);
  pages.push_back(store.allocate(1));
  EXPECT_THROW(store.allocate(1), ResourceError);
  EXPECT_EQ(store.use().used_bytes, 10 * kFirstBytes + kRestBytes);
  {
    const Reservation state = store.reserve(100);
    EXPECT_EQ(store.use().total_bytes, kBudget);
    try {
      const auto more = store.reserve(1);
      FAIL();
    } catch (const ResourceError& error) {
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
      EXPECT_NE(std::string(error.what()).find("budget"), std::string::npos);
    }
  }
  expect_balance(store);
  pages.clear();
  EXPECT_EQ(store.use(), PageStoreUse{});
}

TEST(PageStore, ThreadsTakeAndGiveBackAtOnce) {
  PageStore store({kFirstBytes, kRestBytes}, kPlenty);
  const PageRef common = store.allocate(0);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&store, common, t] {
      std::mt19937 random(static_cast<unsigned>(t));
      std::vector<PageRef> pages;
      for (int i = 0; i < 5000; ++i) {
        if (pages.size() < 50 && random() % 2 == 0) {
          pages.push_back(random() % 3 == 0 ? common
                                            : store.allocate(static_cast<int>(i % 2)));
          if (random() % 4 == 0) pages.push_back(pages.back());
        } else if (!pages.empty()) {
          std::swap(pages[random() % pages.size()], pages.back());
          pages.pop_back();
        }
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(store.use().used_bytes, kFirstBytes);
  EXPECT_EQ(store.use().shared_bytes, 0u);
  expect_balance(store);
}

// A sequence whose tokens are numbers, kept twice: in pages and in a plain list.
class Numbers {
 public:
  Numbers(const std::shared_ptr<PageStore>& store, int first_pages)
      : pages_(store, first_pages) {}

  void append(int n, std::mt19937& random) {
    const int length = static_cast<int>(expected_.size());
    pages_.prepare(length, length + n);
    for (int i = 0; i < n; ++i) {
      const std::uint32_t number = static_cast<std::uint32_t>(random());
      std::memcpy(slot(length + i), &number, sizeof number);
      expected_.push_back(number);
    }
  }

  void truncate(int length) {
    pages_.truncate(length);
    expected_.resize(static_cast<std::size_t>(length));
  }

  int length() const { return static_cast<int>(expected_.size()); }
  const PageList& pages() const { return pages_; }

  bool holds_what_was_written(int from = 0) const {
    for (int i = from; i < length(); ++i)
      if (std::memcmp(slot(i), &expected_[static_cast<std::size_t>(i)], 4) != 0)
        return false;
    return true;
  }

 private:
  std::byte* slot(int token) const {
    return pages_.data()[token / kPageTokens] + 4 * (token % kPageTokens);
  }

  PageList pages_;
  std::vector<std::uint32_t> expected_;
};

// What the sequences hold, counted page by page.
PageStoreUse counted(const std::vector<Numbers>& sequences) {
  std::map<const std::byte*, std::pair<std::uint64_t, int>> pages;
  for (const Numbers& sequence : sequences)
    for (int i = 0; i < sequence.pages().size(); ++i) {
      auto& [bytes, holders] = pages[sequence.pages().data()[i]];
      bytes = i < sequence.pages().first_pages() ? kFirstBytes : kRestBytes;
      ++holders;
    }
  PageStoreUse use;
  for (const auto& [data, page] : pages)
    (page.second == 1 ? use.used_bytes : use.shared_bytes) += page.first;
  return use;
}

TEST(PageList, SequencesHoldWhatTheyWereGivenThroughAHundredThousandChanges) {
  constexpr std::uint64_t kBudget = 300 * kFirstBytes;  // is met now and then
  const auto store = std::make_shared<PageStore>(
      std::vector<std::size_t>{kFirstBytes, kRestBytes}, kBudget);
  std::mt19937 random(1);
  std::vector<Numbers> sequences;
  int refused = 0, forks = 0, copies = 0;
  for (int step = 0; step < 100000; ++step) {
    const std::size_t i = sequences.empty() ? 0 : random() % sequences.size();
    const unsigned what = random() % 100;
    try {
      if (sequences.empty() || (what < 5 && sequences.size() < 20)) {
        sequences.emplace_back(store, static_cast<int>(random() % 3));
      } else if (what < 70) {
        const int n = static_cast<int>(what < 60 ? random() % 20 : random() % 300);
        const PageStoreUse before = store->use();
        sequences[i].append(n, random);
        if (store->use().shared_bytes < before.shared_bytes) ++copies;
      } else if (what < 80 && sequences.size() < 20) {
        sequences.push_back(sequences[i]);
        ++forks;
      } else if (what < 93) {
        sequences[i].truncate(static_cast<int>(
            random() % static_cast<unsigned>(sequences[i].length() + 1)));
      } else {
        sequences[i] = std::move(sequences.back());
        sequences.pop_back();
      }
    } catch (const ResourceError&) {
      ++refused;
    }
    const PageStoreUse use = store->use();
    ASSERT_EQ(use.free_bytes + use.used_bytes + use.shared_bytes, use.total_bytes);
    ASSERT_LE(use.total_bytes, kBudget);
    if (i < sequences.size()) {
      ASSERT_TRUE(
          sequences[i].holds_what_was_written(std::max(0, sequences[i].length() - 80)))
          << "step " << step;
    }
    const PageStoreUse expected = counted(sequences);
    ASSERT_EQ(use.used_bytes, expected.used_bytes) << "step " << step;
    ASSERT_EQ(use.shared_bytes, expected.shared_bytes) << "step " << step;
    for (const Numbers& sequence : sequences) {
      if (step % 100 != 0) break;
      ASSERT_TRUE(sequence.holds_what_was_written()) << "step " << step;
    }
  }
  // Every kind of change has happened, not only the easy ones.
  EXPECT_GT(refused, 100);
  EXPECT_GT(forks, 1000);
  EXPECT_GT(copies, 1000);
  sequences.clear();
  EXPECT_EQ(store->use(), PageStoreUse{});
}

TEST(PageList, ARefusedGrowthLeavesTheSequenceAsItWas) {
  const auto store = std::make_shared<PageStore>(
      std::vector<std::size_t>{kFirstBytes, kRestBytes}, 3 * kRestBytes);
  std::mt19937 random(1);
  Numbers sequence(store, 0);
  sequence.append(100, random);
  const PageStoreUse before = store->use();
  EXPECT_THROW(sequence.append(200, random), ResourceError);
  EXPECT_EQ(store->use(), before);
  EXPECT_TRUE(sequence.holds_what_was_written());
  sequence.append(92, random);
}

TEST(PageList, WhoeverHoldsTheOwnerSeesThePagesAsTheyWere) {
  const auto store = std::make_shared<PageStore>(
      std::vector<std::size_t>{kFirstBytes, kRestBytes}, kPlenty);
  PageList pages(store, 0);
  pages.prepare(0, 10);
  *pages.data()[0] = std::byte{1};
  {
    const auto owner = pages.owner();
    std::byte* const* const before = pages.data();
    pages.prepare(10, 200);
    *pages.data()[0] = std::byte{2};
    EXPECT_EQ(*before[0], std::byte{1});
  }
  EXPECT_EQ(store->use().used_bytes, 4 * kRestBytes);
  EXPECT_EQ(store->use().shared_bytes, 0u);
}

TEST(PageList, AForkCopiesOnlyThePageThatItWrites) {
  const auto store = std::make_shared<PageStore>(
      std::vector<std::size_t>{kFirstBytes, kRestBytes}, kPlenty);
  std::mt19937 random(1);
  Numbers first(store, 1);
  first.append(5 * kPageTokens + 3, random);
  Numbers second = first;
  EXPECT_EQ(store->use().used_bytes, 0u);
  second.append(1, random);
  EXPECT_EQ(store->use().used_bytes, 2 * kRestBytes);  // one each
  first.truncate(5 * kPageTokens + 1);
  first.append(1, random);  // nobody shares it any more
  EXPECT_EQ(store->use().used_bytes, 2 * kRestBytes);
  EXPECT_TRUE(first.holds_what_was_written());
  EXPECT_TRUE(second.holds_what_was_written());
}

// Memory that begins with rubbish, as a device's does, and counts what is asked of it.
class OtherMemory final : public PageMemory {
 public:
  std::byte* allocate(std::size_t bytes) const override {
    if (bytes > most) return nullptr;
    auto* memory = static_cast<std::byte*>(std::aligned_alloc(64, bytes));
    std::memset(memory, 0xff, bytes);
    ++held;
    return memory;
  }
  void free(std::byte* memory, std::size_t) const noexcept override {
    std::free(memory);
    --held;
  }
  bool starts_zero() const override { return false; }
  void zero(std::byte* at, std::size_t bytes) const override {
    std::memset(at, 0, bytes);
  }
  void copy(std::byte* to, const std::byte* from, std::size_t bytes) const override {
    std::memcpy(to, from, bytes);
    copied += bytes;
  }
  std::uint64_t available_bytes() const override { return most; }
  bool is_devices() const override { return true; }

  std::size_t most = kPlenty;
  mutable int held = 0;
  mutable std::size_t copied = 0;
};

TEST(PageStore, PagesOfOtherMemoryAreZeroAndGoBackToIt) {
  const OtherMemory memory;
  {
    PageStore store({kFirstBytes}, kPlenty, memory);
    for (int round = 0; round < 2; ++round) {
      const PageRef page = store.allocate(0);
      EXPECT_EQ(std::count(page.data(), page.data() + kFirstBytes, std::byte{0}),
                static_cast<std::ptrdiff_t>(kFirstBytes));
      std::memset(page.data(), 7, kFirstBytes);
    }
  }
  EXPECT_EQ(memory.held, 0);
}

TEST(PageStore, SaysThatOtherMemoryIsUsedUp) {
  OtherMemory memory;
  memory.most = 100;
  PageStore store({kFirstBytes}, kPlenty, memory);
  EXPECT_THROW(store.allocate(0), ResourceError);
  EXPECT_EQ(store.use(), PageStoreUse{});
}

TEST(PageList, AForkCopiesThroughTheMemoryOfItsPages) {
  const OtherMemory memory;
  const auto store = std::make_shared<PageStore>(
      std::vector<std::size_t>{kFirstBytes, kRestBytes}, kPlenty, memory);
  PageList first(store, 0);
  first.prepare(0, 3);
  *first.data()[0] = std::byte{9};
  PageList second = first;
  second.prepare(3, 4);
  EXPECT_EQ(memory.copied, kRestBytes);
  EXPECT_EQ(*second.data()[0], std::byte{9});
}

}  // namespace
}  // namespace optiq::cache
