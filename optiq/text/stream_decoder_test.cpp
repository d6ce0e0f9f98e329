#include "optiq/text/stream_decoder.h"

#include <gtest/gtest.h>

#include <random>

#include "optiq/text/testdata/testdata.h"

namespace optiq::text {
namespace {

using Ids = std::vector<int>;

/// Ids that name tokens, with more of the ones that are parts of characters.
Ids random_ids(const Tokenizer& tokenizer, std::mt19937& random, int count) {
  Ids parts;
  Ids all;
  for (int id = 0; id < tokenizer.vocab_size(); ++id) {
    all.push_back(id);
    const std::string bytes = tokenizer.token_bytes(id);
    if (bytes.size() < 3 && !bytes.empty() && (bytes[0] & 0x80)) parts.push_back(id);
  }
  Ids ids;
  for (int i = 0; i < count; ++i) {
    const Ids& from = !parts.empty() && random() % 3 ? parts : all;
    ids.push_back(from[random() % from.size()]);
  }
  return ids;
}

TEST(StreamDecoder, EmitsExactlyWhatDecodeGives) {
  std::mt19937 random(1);
  for (const auto& dir :
       {demo_dir(), testdata() / "byte_fallback", testdata() / "unigram"}) {
    const Tokenizer tokenizer = Tokenizer::load(dir);
    const Ids ids = random_ids(tokenizer, random, 6000);
    for (const bool skip_special : {false, true}) {
      StreamDecoder stream(tokenizer, {.skip_special = skip_special});
      // One decoder for all lengths: finish() leaves it as new.
      for (std::size_t begin = 0, length = 0; begin + length < ids.size();
           begin += length++) {
        const Ids some(ids.begin() + begin, ids.begin() + begin + length);
        std::string text;
        for (const int id : some) text += stream.push(id);
        text += stream.finish();
        ASSERT_EQ(text, tokenizer.decode(some, {.skip_special = skip_special}))
            << dir << " " << Json(some).dump();
      }
    }
  }
}

TEST(StreamDecoder, NeverSplitsACharacter) {
  const std::string text =
      "日本語 👩‍👩‍👧‍👦 naïve 👍🏽 Ω नमस्ते";
  for (const auto& dir : {demo_dir(), testdata() / "byte_fallback"}) {
    const Tokenizer tokenizer = Tokenizer::load(dir);
    StreamDecoder stream(tokenizer);
    std::string all;
    int pieces = 0;
    for (const int id : tokenizer.encode(text)) {
      const std::string piece = stream.push(id);
      EXPECT_NO_THROW(Json(piece).dump()) << "not UTF-8";
      EXPECT_FALSE(has(piece, "\uFFFD"));
      pieces += !piece.empty();
      all += piece;
    }
    EXPECT_EQ(all + stream.finish(), text);
    EXPECT_GT(pieces, 3);
  }
}

TEST(StreamDecoder, HoldsNothingBackThatIsSettled) {
  StreamDecoder stream(demo_tokenizer());
  for (const int id : demo_tokenizer().encode("plain words and <|im_end|> 123")) {
    EXPECT_EQ(stream.push(id), demo_tokenizer().token_bytes(id));
  }
  EXPECT_EQ(stream.finish(), "");
}

TEST(StreamDecoder, ReplacesAnUnfinishedCharacterAtTheEnd) {
  const Ids ids = demo_tokenizer().encode("👍");
  ASSERT_GT(ids.size(), 1u);
  StreamDecoder stream(demo_tokenizer());
  EXPECT_EQ(stream.push(ids[0]), "");
  EXPECT_EQ(stream.finish(), "\uFFFD");
  EXPECT_EQ(stream.finish(), "");
}

TEST(StreamDecoder, GoesOnAfterAnIdThatNamesNoToken) {
  const Ids ids = demo_tokenizer().encode("é👍");
  StreamDecoder stream(demo_tokenizer());
  std::string text;
  for (const int id : ids) {
    EXPECT_THROW(stream.push(8192), std::invalid_argument);
    EXPECT_THROW(stream.push(-1), std::invalid_argument);
    text += stream.push(id);
  }
  EXPECT_EQ(text + stream.finish(), "é👍");
}

TEST(StreamDecoder, OutlivesItsTokenizer) {
  auto tokenizer = std::make_unique<Tokenizer>(Tokenizer::load(demo_dir()));
  const Ids ids = tokenizer->encode("hello");
  StreamDecoder stream(*tokenizer);
  tokenizer.reset();
  std::string text;
  for (const int id : ids) text += stream.push(id);
  EXPECT_EQ(text + stream.finish(), "hello");
}

}  // namespace
}  // namespace optiq::text
