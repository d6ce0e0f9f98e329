#include "optiq/server/chat/tools/json_stream.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>

namespace optiq::server {
namespace {

using Json = nlohmann::json;

JsonStream::Status feed(JsonStream& stream, const std::string& text, std::string& out) {
  auto status = JsonStream::Status::kMore;
  for (const char c : text) {
    status = stream.feed(c, out);
    if (status != JsonStream::Status::kMore) break;
  }
  return status;
}

TEST(JsonStream, AValueIsOverWithItsLastCharacter) {
  for (const char* text :
       {"{}", "[]", "{\"a\": [1, -2.5e+3, {\"b\": null}], \"c\": \"\\u00e4\\n\"}",
        "\"text\"", "true", "[[], {}, \"\", 0]"}) {
    JsonStream stream;
    std::string out;
    EXPECT_EQ(feed(stream, text, out), JsonStream::Status::kDone) << text;
    EXPECT_EQ(out, text);
  }
}

TEST(JsonStream, WhatIsNoJsonIsBad) {
  for (const char* text :
       {"{a", "{\"a\" 1", "[1,]", "{\"a\":1,}", "tru3", "[01]", "[1.]", "\"\\x\"",
        "\"\\u00g0\"", "}", "['a']", "[1 2]", "[+1]", "[--1]"}) {
    JsonStream stream;
    std::string out;
    EXPECT_EQ(feed(stream, text, out), JsonStream::Status::kBad) << text;
  }
}

TEST(JsonStream, ControlCharactersInStringsAreEscaped) {
  JsonStream stream;
  std::string out;
  EXPECT_EQ(feed(stream, "\"a\nb\tc\x01\"", out), JsonStream::Status::kDone);
  EXPECT_EQ(out, "\"a\\nb\\tc\\u0001\"");
}

TEST(JsonStream, WhateverWasPassedOnCanBeClosedToAWholeValue) {
  const std::string whole =
      R"({"a": [1, -2.5e+3, {"b": null}], "c\"d": "\u00e4\n", "e": true, "f": -0.5})";
  for (std::size_t n = 1; n < whole.size(); ++n) {
    JsonStream stream;
    std::string out;
    feed(stream, whole.substr(0, n), out);
    const std::string closed = out + stream.closing();
    EXPECT_FALSE(Json::parse(closed, nullptr, false).is_discarded()) << closed;
  }
  std::mt19937 random(3);
  for (int round = 0; round < 20'000; ++round) {
    std::string text = whole;
    for (unsigned k = 1 + random() % 3; k > 0; --k)
      text[random() % text.size()] = "{}[]\",:\\ 0eE+-.tn"[random() % 17];
    text.resize(1 + random() % text.size());
    if (text[0] != '{') continue;
    JsonStream stream;
    std::string out;
    feed(stream, text, out);
    const std::string closed = out + stream.closing();
    EXPECT_FALSE(Json::parse(closed, nullptr, false).is_discarded())
        << text << " -> " << closed;
  }
}

}  // namespace
}  // namespace optiq::server
