#include "optiq/server/json_body.h"

#include <gtest/gtest.h>

#include <functional>

#include "optiq/server/api_error.h"

namespace optiq::server {
namespace {

std::string refusal(const std::function<void()>& read) {
  try {
    read();
  } catch (const ApiError& error) {
    EXPECT_EQ(error.status, 400);
    return error.what();
  }
  return "not refused";
}

TEST(JsonBody, WhatIsNotAnObjectIsRefused) {
  EXPECT_EQ(refusal([] { parse_body("[1]"); }),
            "the body: expected an object, found an array of 1");
  EXPECT_NE(refusal([] { parse_body(""); }).find("not valid JSON"), std::string::npos);
  EXPECT_NE(refusal([] { parse_body("{\"a\": \"\xff\"}"); }).find("not valid JSON"),
            std::string::npos);
}

TEST(JsonBody, DeepNestingIsRefusedBeforeItIsRead) {
  const std::string deep =
      "{\"a\":" + std::string(10'000, '[') + std::string(10'000, ']') + "}";
  EXPECT_EQ(refusal([&] { parse_body(deep); }), "the body: nested deeper than 100");
}

TEST(JsonBody, AMistakeNamesItsField) {
  const Json body = parse_body(R"({"n": "three", "inner": {"stop": [1], "t": 3.5}})");
  const Fields fields(body, "");
  EXPECT_EQ(refusal([&] { fields.integer("n", 1, 16); }),
            "n: expected a whole number from 1 to 16, found the string \"three\"");
  const Fields inner = *fields.object("inner");
  EXPECT_EQ(refusal([&] { inner.text_or_texts("stop", 4); }),
            "inner.stop: expected a string or an array of at most 4 strings, found an "
            "array of 1");
  EXPECT_EQ(refusal([&] { inner.number("t", 0, 2); }),
            "inner.t: expected a number from 0 to 2, found the number 3.5");
  EXPECT_EQ(refusal([&] { inner.require("absent"); }), "inner.absent: field required");
}

TEST(JsonBody, NullIsAsGoodAsAbsentAndWholeFloatsAreIntegers) {
  const Json body = parse_body(R"({"a": null, "b": 5.0, "c": 18446744073709551615})");
  const Fields fields(body, "");
  EXPECT_FALSE(fields.has("a"));
  EXPECT_EQ(fields.integer("b", 0, 10), 5);
  EXPECT_EQ(refusal([&] { fields.integer("c", 0, 10); }),
            "c: expected a whole number from 0 to 10, found the number "
            "18446744073709551615");
}

}  // namespace
}  // namespace optiq::server
