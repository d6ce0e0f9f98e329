#include "optiq/cache/sequence_state.h"

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/base/error.h"

namespace optiq::cache {
namespace {

const LayerShape kAttention{.n_kv_heads = 2, .head_dim = 32};
const LayerShape kDelta{.conv_kernel = 4,
                        .conv_channels = 8,
                        .n_value_heads = 2,
                        .key_dim = 4,
                        .value_dim = 4};

std::shared_ptr<KvCache> cache_of(std::vector<LayerShape> shapes,
                                  std::uint64_t budget_bytes = 1 << 24) {
  CacheOptions options;
  options.budget_bytes = budget_bytes;
  return std::make_shared<KvCache>(std::move(shapes), options);
}

void grow(SequenceState& state, int tokens, float value) {
  state.prepare(tokens);
  for (int i = 0; i < static_cast<int>(state.cache().shapes().size()); ++i)
    if (state.cache().layer(i) == nullptr)
      state.recurrent(i).delta_state = mx::full({2, 4, 4}, value);
  state.advance(tokens);
}

float value_of(SequenceState& state, int layer) {
  mx::array x = mx::max(state.recurrent(layer).delta_state);
  return x.item<float>();
}

TEST(SequenceState, WithoutRecurrentLayersAnyLengthCanBeGoneBackTo) {
  const auto cache = cache_of({kAttention, kAttention});
  SequenceState state(cache);
  grow(state, 200, 0);
  EXPECT_EQ(state.pages(0).pages.n_pages, 4);
  state.truncate(129);
  EXPECT_EQ(state.pages(1).pages.n_pages, 3);
  state.truncate(0);
  EXPECT_EQ(cache->store().use(), PageStoreUse{});
  EXPECT_THROW(state.truncate(1), std::invalid_argument);
  EXPECT_THROW(state.truncate(-1), std::invalid_argument);
}

TEST(SequenceState, RecurrentLayersGoBackToSnapshotsAndNowhereElse) {
  const auto cache = cache_of({kDelta, kAttention});
  SequenceState state(cache);
  grow(state, 10, 1);
  state.take_snapshot();
  grow(state, 10, 2);
  state.take_snapshot();
  grow(state, 10, 3);
  EXPECT_FALSE(state.can_truncate(15));
  try {
    state.truncate(15);
    FAIL();
  } catch (const std::invalid_argument& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find("15"), std::string::npos);
    EXPECT_EQ(message.find('\n'), std::string::npos);
  }
  EXPECT_EQ(state.length(), 30);
  state.truncate(20);
  EXPECT_EQ(value_of(state, 0), 2);
  grow(state, 5, 4);
  state.truncate(10);
  EXPECT_EQ(value_of(state, 0), 1);
  EXPECT_FALSE(state.can_truncate(20));  // forgotten with the tokens
  state.truncate(0);
  EXPECT_EQ(value_of(state, 0), 0);
}

TEST(SequenceState, StatesAndSnapshotsAreInTheBooks) {
  const auto cache = cache_of({kDelta, kAttention});
  const auto bytes = static_cast<std::uint64_t>(cache->recurrent_bytes());
  EXPECT_EQ(bytes, 4u * (3 * 8 + 2 * 4 * 4));
  {
    SequenceState state(cache);
    EXPECT_EQ(cache->store().use().used_bytes, bytes);
    state.take_snapshot();
    state.take_snapshot();  // the same place: nothing new
    EXPECT_EQ(cache->store().use().used_bytes, 2 * bytes);
    const SequenceState fork = state.fork();  // shares the snapshot
    EXPECT_EQ(cache->store().use().used_bytes, 3 * bytes);
  }
  EXPECT_EQ(cache->store().use(), PageStoreUse{});
  const auto small = cache_of({kDelta, kAttention}, bytes + 1);
  SequenceState state(small);
  EXPECT_THROW(state.take_snapshot(), ResourceError);
  EXPECT_THROW(state.fork(), ResourceError);
  EXPECT_THROW(state.prepare(1), ResourceError);
  EXPECT_EQ(state.length(), 0);
}

TEST(SequenceState, AForkSharesPagesAndThenGoesItsOwnWay) {
  const auto cache = cache_of({kDelta, kAttention});
  SequenceState first(cache);
  grow(first, 100, 1);
  SequenceState second = first.fork();
  EXPECT_EQ(second.pages(1).pages.pages[0], first.pages(1).pages.pages[0]);
  EXPECT_EQ(second.pages(1).pages.pages[1], first.pages(1).pages.pages[1]);
  grow(second, 1, 2);
  EXPECT_EQ(second.pages(1).pages.pages[0], first.pages(1).pages.pages[0]);
  EXPECT_NE(second.pages(1).pages.pages[1], first.pages(1).pages.pages[1]);
  EXPECT_EQ(value_of(first, 0), 1);
  EXPECT_EQ(value_of(second, 0), 2);
}

TEST(SequenceState, ThePagesOfALayerOutliveTheirSequence) {
  kernels::PagedKv pages;
  {
    SequenceState state(cache_of({kAttention}));
    grow(state, 1, 0);
    pages = state.pages(0);
  }
  *pages.pages.pages[0] = std::byte{1};
  EXPECT_EQ(pages.pages.coded_layout->n_kv_heads, 2);
}

}  // namespace
}  // namespace optiq::cache
