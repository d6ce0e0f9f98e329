#include "optiq/server/http/target.h"

#include <gtest/gtest.h>

namespace optiq::server::http {
namespace {

TEST(Target, ThePathIsDecodedOnceAndTheQueryIsLeftAlone) {
  const auto target = parse_target("/v1/a%20b%C3%A4?x=%20&y");
  ASSERT_TRUE(target);
  EXPECT_EQ(target->path, "/v1/a bä");
  EXPECT_EQ(target->query, "x=%20&y");
  EXPECT_EQ(parse_target("http://host:80/path?q")->path, "/path");
  EXPECT_EQ(parse_target("http://host")->path, "/");
  EXPECT_EQ(parse_target("/%2541")->path, "/%41");
  EXPECT_EQ(parse_target("/v1/models/org%2Fname")->path, "/v1/models/org/name");
}

TEST(Target, WhatCouldFoolALookupIsRefused) {
  for (const char* target : {"", "*", "v1", "/a%", "/a%2", "/a%zz", "/a%00b", "/a%0ab",
                             "/a%5cb", "/%ff", "/%c3", "/%c3%28"})
    EXPECT_FALSE(parse_target(target)) << target;
}

}  // namespace
}  // namespace optiq::server::http
