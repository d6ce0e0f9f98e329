#include "optiq/text/tokenizer.h"

#include <gtest/gtest.h>

#include "optiq/base/error.h"
#include "optiq/text/testdata/testdata.h"

namespace optiq::text {
namespace {

using Ids = std::vector<int>;

struct Case {
  const char* golden;
  std::filesystem::path dir;
};

std::vector<Case> tokenizers() {
  return {{"tokenizer_demo.json", demo_dir()},
          {"tokenizer_byte_fallback.json", testdata() / "byte_fallback"},
          {"tokenizer_unigram.json", testdata() / "unigram"}};
}

TEST(Tokenizer, EncodesAsThePythonLibraryDoes) {
  for (const Case& c : tokenizers()) {
    const Tokenizer tokenizer = Tokenizer::load(c.dir);
    const Json all = golden(c.golden);
    for (const Json& one : all["encodings"]) {
      SCOPED_TRACE(std::string(c.golden) + " " + one["text"].dump());
      const auto text = one["text"].get<std::string>();
      EXPECT_EQ(tokenizer.encode(text, {.parse_special = true}),
                one["parsed"].get<Ids>());
      EXPECT_EQ(
          tokenizer.encode(text, {.add_special_tokens = true, .parse_special = true}),
          one["with_specials"].get<Ids>());
    }
  }
}

// Python's encode_special_tokens lets a model build a special token from its own
// pieces, as Unigram does of "<s>"; ours must not, so there only the absence is
// checked.
TEST(Tokenizer, LeavesSpecialTokensTextUnlessAsked) {
  for (const Case& c : tokenizers()) {
    const Tokenizer tokenizer = Tokenizer::load(c.dir);
    const Json all = golden(c.golden);
    for (const Json& one : all["encodings"]) {
      SCOPED_TRACE(std::string(c.golden) + " " + one["text"].dump());
      const Ids ids = tokenizer.encode(one["text"].get<std::string>());
      const Ids expected = one["plain"].get<Ids>();
      const auto is_special = [&](int id) { return tokenizer.is_special(id); };
      // <unk> is special too, and what unknown text becomes.
      const auto unknown = tokenizer.token_id("<unk>");
      for (const int id : ids) EXPECT_TRUE(!is_special(id) || id == unknown);
      if (std::none_of(expected.begin(), expected.end(), is_special)) {
        EXPECT_EQ(ids, expected);
      }
    }
  }
}

TEST(Tokenizer, DecodesAsThePythonLibraryDoes) {
  for (const Case& c : tokenizers()) {
    const Tokenizer tokenizer = Tokenizer::load(c.dir);
    const Json all = golden(c.golden);
    for (const Json& one : all["decodings"]) {
      SCOPED_TRACE(std::string(c.golden) + " " + one["ids"].dump());
      const Ids ids = one["ids"].get<Ids>();
      EXPECT_EQ(tokenizer.decode(ids), one["text"].get<std::string>());
      EXPECT_EQ(tokenizer.decode(ids, {.skip_special = true}),
                one["skipped"].get<std::string>());
    }
  }
}

TEST(Tokenizer, RoundTripsTextThatIsNormalized) {
  const auto& tokenizer = demo_tokenizer();
  const std::string with_nul("\0a\0", 3);
  for (const std::string& text : std::vector<std::string>{
           "", "a", " x  y\n", "日本語 👍🏽", "<|im_end|>", with_nul}) {
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
  }
}

TEST(Tokenizer, RefusesTextThatIsNotUtf8) {
  EXPECT_EQ(thrown<std::invalid_argument>([] { demo_tokenizer().encode("ab\xff"); }),
            "[encode] the text is not UTF-8: byte 0xff at offset 2");
  for (const char* text : {"\xc3", "\xed\xa0\x80", "\xc0\x80", "\xf5\x80\x80\x80"}) {
    EXPECT_THROW(demo_tokenizer().encode(text), std::invalid_argument);
  }
}

TEST(Tokenizer, RefusesIdsThatNameNoToken) {
  const auto& tokenizer = demo_tokenizer();
  EXPECT_EQ(tokenizer.vocab_size(), 8192);
  for (const int id : {-1, 8192, 1 << 30, std::numeric_limits<int>::min()}) {
    EXPECT_TRUE(has(thrown<std::invalid_argument>([&] {
                      tokenizer.decode(Ids{0, id});
                    }),
                    std::to_string(id)));
    EXPECT_THROW(tokenizer.token_bytes(id), std::invalid_argument);
    EXPECT_FALSE(tokenizer.is_special(id));
  }
}

TEST(Tokenizer, KnowsItsTokens) {
  const auto& tokenizer = demo_tokenizer();
  EXPECT_EQ(tokenizer.token_id("<|im_end|>"), 8185);
  EXPECT_EQ(tokenizer.token_id("no such token"), std::nullopt);
  EXPECT_TRUE(tokenizer.is_special(8185));
  EXPECT_FALSE(tokenizer.is_special(*tokenizer.token_id("<think>")));
  EXPECT_EQ(tokenizer.token_bytes(8185), "<|im_end|>");
  EXPECT_EQ(golden_tokenizer().special_tokens().at("eos_token"), "<|im_end|>");
}

TEST(Tokenizer, TokensBytesMakeUpTheText) {
  const std::string text = "naïve 日本語 👍🏽\n\tend";
  for (const Case& c : tokenizers()) {
    const Tokenizer tokenizer = Tokenizer::load(c.dir);
    std::string bytes;
    const Ids ids = tokenizer.encode("the " + text);
    for (const int id : ids) bytes += tokenizer.token_bytes(id);
    const std::string whole = tokenizer.decode(ids);
    EXPECT_TRUE(bytes == whole || bytes == " " + whole) << bytes;
  }
}

TEST(Tokenizer, AddsTheTokensOfTheConfig) {
  const auto json = slurp(demo_dir() / "tokenizer.json");
  const auto config = [](int id) {
    return R"({"added_tokens_decoder": {")" + std::to_string(id) +
           R"(": {"content": "<extra>", "special": true}}})";
  };
  const ScratchModel model(
      {{"tokenizer.json", json}, {"tokenizer_config.json", config(8192)}});
  const Tokenizer tokenizer = Tokenizer::load(model.dir());
  EXPECT_EQ(tokenizer.encode("<extra>", {.parse_special = true}), Ids{8192});
  EXPECT_EQ(tokenizer.vocab_size(), 8193);

  const ScratchModel gap(
      {{"tokenizer.json", json}, {"tokenizer_config.json", config(9000)}});
  EXPECT_TRUE(
      has(thrown<CheckpointError>([&] { Tokenizer::load(gap.dir()); }), "9000"));
}

TEST(Tokenizer, NamesTheFileThatIsBroken) {
  const auto json = slurp(demo_dir() / "tokenizer.json");
  const auto message = [](const std::map<std::string, std::string>& files) {
    const ScratchModel model(files);
    return thrown<CheckpointError>([&] { Tokenizer::load(model.dir()); });
  };
  EXPECT_TRUE(has(message({}), "tokenizer.json: there is no such file"));
  for (const std::string& broken :
       {std::string(), std::string("{}"), std::string("[1]"), json.substr(0, 1000),
        std::string("\xff\xfe"), std::string(R"({"model": {"type": "BPE"}})")}) {
    EXPECT_TRUE(has(message({{"tokenizer.json", broken}}), "tokenizer.json: "));
  }
  EXPECT_TRUE(has(message({{"tokenizer.json", json}, {"tokenizer_config.json", "{"}}),
                  "tokenizer_config.json"));
  EXPECT_TRUE(has(message({{"tokenizer.json", json}, {"special_tokens_map.json", "3"}}),
                  "special_tokens_map.json"));
}

TEST(Tokenizer, TakesLongTextInLinearTime) {
  const auto& tokenizer = demo_tokenizer();
  std::string words;
  while (words.size() < 400000) words += "some words and 12 numbers, ";
  for (const std::string& text :
       {words, std::string(200000, ' '), std::string(200000, 'a'),
        std::string(100000, '\n') + "x"}) {
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
  }
}

}  // namespace
}  // namespace optiq::text
