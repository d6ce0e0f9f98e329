#include "optiq/generate/stop_strings.h"

#include <gtest/gtest.h>

namespace optiq::generation {
namespace {

// What is shown when the text comes in pieces of `size` bytes.
std::string shown(const std::string& text, std::vector<std::string> stops,
                  std::size_t size, std::string* match = nullptr) {
  StopStrings filter(std::move(stops));
  std::string out;
  for (std::size_t i = 0; i < text.size(); i += size)
    out += filter.feed(text.substr(i, size));
  out += filter.finish();
  if (match) *match = filter.match();
  return out;
}

TEST(StopStrings, TextEndsBeforeTheStopHoweverItIsCut) {
  for (std::size_t size = 1; size <= 12; ++size) {
    SCOPED_TRACE(size);
    EXPECT_EQ(shown("one two END three", {"END"}, size), "one two ");
    EXPECT_EQ(shown("aaab tail", {"aab"}, size), "a");
    EXPECT_EQ(shown("no stop here", {"END", "stopped"}, size), "no stop here");
  }
}

TEST(StopStrings, TheFirstInTheTextWins) {
  std::string match;
  EXPECT_EQ(shown("x B y A", {"A", "B"}, 1, &match), "x ");
  EXPECT_EQ(match, "B");
}

TEST(StopStrings, OnlyWhatMayBeginAStopIsHeldBack) {
  StopStrings filter({"\n\nUser:"});
  EXPECT_EQ(filter.feed("hello\n"), "hello");
  EXPECT_EQ(filter.feed("world"), "\nworld");
  EXPECT_EQ(filter.finish(), "");
}

TEST(StopStrings, NothingComesAfterAStop) {
  StopStrings filter({"#"});
  EXPECT_EQ(filter.feed("a#b"), "a");
  EXPECT_EQ(filter.feed("c"), "");
  EXPECT_EQ(filter.finish(), "");
}

TEST(StopStrings, AnEmptyStopStringStopsNothing) {
  EXPECT_EQ(shown("text", {""}, 2), "text");
}

}  // namespace
}  // namespace optiq::generation
