#include "optiq/server/http/gate.h"

#include <gtest/gtest.h>

namespace optiq::server::http {
namespace {

int status(const Gate& gate, const std::string& method, const Headers& headers) {
  Request request;
  request.method = method;
  request.headers = headers;
  const auto refusal = gate.refusal(request);
  return refusal ? refusal->status : 200;
}

const std::pair<std::string, std::string> kJson{"content-type",
                                                "application/json; charset=utf-8"};

TEST(Gate, WithoutKeysOnlyLoopbackNamesAreHosts) {
  const Gate gate({.api_keys = {}, .hosts = {"box.lan"}, .origins = {}});
  for (const char* host : {"localhost", "LOCALHOST:8080", "127.0.0.1:1", "[::1]:8080",
                           "box.lan", "box.lan:99", "app.localhost:3000"})
    EXPECT_EQ(status(gate, "GET", {{"host", host}}), 200) << host;
  for (const char* host : {"evil.example", "127.0.0.1.evil.example",
                           "localhost.evil.example", "evil.example:8080", "[::2]:8080"})
    EXPECT_EQ(status(gate, "GET", {{"host", host}}), 403) << host;
}

TEST(Gate, AForeignPageMayNotAskAndTheServersOwnMay) {
  const Gate gate({.api_keys = {}, .hosts = {}, .origins = {"https://ok.example"}});
  const auto with = [&](const char* origin) {
    return status(gate, "POST", {{"host", "127.0.0.1:80"}, {"origin", origin}, kJson});
  };
  EXPECT_EQ(with("http://127.0.0.1:80"), 200);
  EXPECT_EQ(with("https://ok.example"), 200);
  EXPECT_EQ(with("https://evil.example"), 403);
  EXPECT_EQ(with("http://127.0.0.1:81"), 403);
  EXPECT_EQ(with("null"), 403);
}

TEST(Gate, APostOfAnythingButJsonIsRefused) {
  const Gate gate({});
  EXPECT_EQ(status(gate, "POST", {kJson}), 200);
  for (const char* type :
       {"", "text/plain", "application/x-www-form-urlencoded", "application/json5"})
    EXPECT_EQ(status(gate, "POST", {{"content-type", type}}), 415) << type;
}

TEST(Gate, AKeyOpensInBothDialectsAndNothingElseDoes) {
  const Gate gate({.api_keys = {"first", "second"}, .hosts = {}, .origins = {}});
  EXPECT_EQ(status(gate, "GET", {{"authorization", "Bearer first"}}), 200);
  EXPECT_EQ(status(gate, "GET", {{"authorization", "bearer second"}}), 200);
  EXPECT_EQ(status(gate, "GET", {{"x-api-key", "second"}}), 200);
  EXPECT_EQ(status(gate, "GET", {{"host", "anything.example"}, {"x-api-key", "first"}}),
            200);
  for (const Headers& headers :
       {Headers{}, Headers{{"x-api-key", ""}}, Headers{{"x-api-key", "firs"}},
        Headers{{"authorization", "Basic first"}}, Headers{{"authorization", "first"}}})
    EXPECT_EQ(status(gate, "GET", headers), 401);
  EXPECT_THROW(Gate({.api_keys = {""}, .hosts = {}, .origins = {}}),
               std::invalid_argument);
}

}  // namespace
}  // namespace optiq::server::http
