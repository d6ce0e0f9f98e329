#include "optiq/generate/engine/prefix_cache.h"

#include <gtest/gtest.h>

#include <numeric>

namespace optiq::generation {
namespace {

constexpr int kLayers = 2;

std::shared_ptr<cache::KvCache> make_cache(bool recurrent) {
  std::vector<cache::LayerShape> shapes(kLayers, {.n_kv_heads = 1, .head_dim = 64});
  if (recurrent)
    shapes[0] = {.conv_kernel = 4,
                 .conv_channels = 8,
                 .n_value_heads = 1,
                 .key_dim = 4,
                 .value_dim = 4};
  cache::CacheOptions options;
  options.budget_bytes = 64 << 20;
  return std::make_shared<cache::KvCache>(shapes, options);
}

std::vector<int> counting(int n, int first = 0) {
  std::vector<int> tokens(static_cast<std::size_t>(n));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

void keep(PrefixCache& prefixes, const std::shared_ptr<cache::KvCache>& cache,
          const std::vector<int>& tokens, const std::string& salt = "") {
  cache::SequenceState state(cache);
  state.prepare(static_cast<int>(tokens.size()));
  state.advance(static_cast<int>(tokens.size()));
  prefixes.keep(tokens, salt, state);
}

TEST(PrefixCache, AttentionGoesOnFromAnywhereInAnEntryButNeverReadsNothing) {
  const auto cache = make_cache(false);
  PrefixCache prefixes(1 << 30);
  keep(prefixes, cache, counting(100));
  EXPECT_EQ(prefixes.match(counting(200), ""), 100);
  EXPECT_EQ(prefixes.match(counting(50), ""), 49);
  auto other = counting(200);
  other[70] = -1;
  EXPECT_EQ(prefixes.match(other, ""), 70);
  EXPECT_EQ(prefixes.find(other, "")->length(), 70);
  EXPECT_EQ(prefixes.match(counting(100, 1), ""), 0);
  EXPECT_FALSE(prefixes.find(counting(100, 1), ""));
}

TEST(PrefixCache, RecurrentLayersGoOnOnlyFromTheEndOfAnEntry) {
  const auto cache = make_cache(true);
  PrefixCache prefixes(1 << 30);
  keep(prefixes, cache, counting(64));
  keep(prefixes, cache, counting(128));
  EXPECT_EQ(prefixes.match(counting(100), ""), 64);
  EXPECT_EQ(prefixes.match(counting(128), ""), 64);
  EXPECT_EQ(prefixes.match(counting(129), ""), 128);
  EXPECT_EQ(prefixes.match(counting(64), ""), 0);
}

TEST(PrefixCache, ASaltKeepsPrefixesApart) {
  const auto cache = make_cache(false);
  PrefixCache prefixes(1 << 30);
  keep(prefixes, cache, counting(100), "a");
  EXPECT_EQ(prefixes.match(counting(100), "b"), 0);
  EXPECT_EQ(prefixes.match(counting(100), "a"), 99);
}

TEST(PrefixCache, WhatNobodyCanUseAnyMoreGoes) {
  const auto cache = make_cache(false);
  PrefixCache prefixes(1 << 30);
  auto owner = std::make_shared<const int>(1);
  cache::SequenceState state(cache);
  state.prepare(100);
  state.advance(100);
  prefixes.keep(counting(100), "adapter", state, owner);
  keep(prefixes, cache, counting(100), "");
  EXPECT_EQ(prefixes.size(), 2);
  owner.reset();  // unmounted
  keep(prefixes, cache, counting(50, 7), "");
  EXPECT_EQ(prefixes.size(), 2);
  EXPECT_EQ(prefixes.match(counting(100), "adapter"), 0);
  EXPECT_EQ(prefixes.match(counting(100), ""), 99);
}

TEST(PrefixCache, PagesThatEntriesShareAreCountedOnce) {
  const auto cache = make_cache(false);
  PrefixCache prefixes(1 << 30);
  cache::SequenceState state(cache);
  state.prepare(128);
  state.advance(128);
  prefixes.keep(counting(128), "", state);
  const std::uint64_t once = prefixes.bytes();
  EXPECT_EQ(once, static_cast<std::uint64_t>(cache->bytes(128)));
  state.prepare(64);
  state.advance(64);
  prefixes.keep(counting(192), "", state);
  EXPECT_EQ(prefixes.bytes(), static_cast<std::uint64_t>(cache->bytes(192)));
  prefixes.clear();
  EXPECT_EQ(prefixes.bytes(), 0u);
}

TEST(PrefixCache, WhatServedSeveralRequestsOutlivesWhatServedOne) {
  const auto cache = make_cache(true);
  PrefixCache prefixes(1 << 30);
  keep(prefixes, cache, counting(64));  // a system prompt
  for (int i = 0; i < 2; ++i) prefixes.find(counting(65), "");
  for (int i = 1; i < 5; ++i) keep(prefixes, cache, counting(64, 1000 * i));
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(prefixes.evict());
  EXPECT_EQ(prefixes.match(counting(65), ""), 64);
  EXPECT_EQ(prefixes.match(counting(65, 1000), ""), 0);
  EXPECT_EQ(prefixes.match(counting(65, 4000), ""), 64);  // the youngest
}

TEST(PrefixCache, NoMoreIsKeptThanTheBudget) {
  const auto cache = make_cache(false);
  const auto one = static_cast<std::uint64_t>(cache->bytes(64));
  PrefixCache prefixes(3 * one);
  for (int i = 0; i < 10; ++i) keep(prefixes, cache, counting(64, 1000 * i));
  EXPECT_EQ(prefixes.bytes(), 3 * one);
  EXPECT_EQ(prefixes.match(counting(65, 9000), ""), 64);
  EXPECT_EQ(prefixes.match(counting(65, 6000), ""), 0);
}

}  // namespace
}  // namespace optiq::generation
