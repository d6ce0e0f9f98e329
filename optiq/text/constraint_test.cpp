#include "optiq/text/constraint.h"

#include <gtest/gtest.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <random>
#include <regex>
#include <stdexcept>

namespace optiq::text {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kLogits = 8200;  // more than the tokenizer has tokens

const Tokenizer& tokenizer() {
  static const auto* const loaded =
      new Tokenizer(Tokenizer::load(OPTIQ_SOURCE_DIR "/models/demo"));
  return *loaded;
}

int end_id() { return *tokenizer().token_id("<|im_end|>"); }

const GrammarCompiler& compiler() {
  static const auto* const made = new GrammarCompiler(tokenizer(), kLogits, {end_id()});
  return *made;
}

std::vector<std::uint32_t> mask_of(Constraint& constraint) {
  std::vector<std::uint32_t> mask((kLogits + 31) / 32);
  constraint.fill_mask(mask);
  return mask;
}

bool allows(const std::vector<std::uint32_t>& mask, int id) {
  return mask[static_cast<std::size_t>(id) / 32] >> (id % 32) & 1;
}

// A walk that takes any allowed token by chance, and the end as soon as it may.
std::string random_text(const Grammar& grammar, unsigned seed, int most = 400) {
  Constraint constraint = compiler().compile(grammar);
  std::mt19937 random(seed);
  std::vector<int> ids;
  while (!constraint.must_end() && static_cast<int>(ids.size()) < most) {
    const auto mask = mask_of(constraint);
    EXPECT_EQ(allows(mask, end_id()), constraint.may_end());
    if (constraint.may_end()) break;
    std::vector<int> allowed;
    for (int id = 0; id < kLogits; ++id)
      if (allows(mask, id)) allowed.push_back(id);
    EXPECT_FALSE(allowed.empty());
    if (allowed.empty()) break;
    ids.push_back(allowed[random() % allowed.size()]);
    constraint.accept(ids.back());
  }
  EXPECT_TRUE(constraint.may_end());
  return tokenizer().decode(ids);
}

TEST(Constraint, WhateverComesObeysTheSchema) {
  const Grammar grammar{Grammar::Kind::kJsonSchema, R"({
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8},
                   "age": {"type": "integer", "minimum": 0, "maximum": 120},
                   "kind": {"enum": ["cat", "dog"]}},
    "required": ["name", "age", "kind"], "additionalProperties": false})"};
  for (unsigned seed = 0; seed < 20; ++seed) {
    const std::string text = random_text(grammar, seed);
    const Json value = Json::parse(text, nullptr, false);
    ASSERT_TRUE(value.is_object()) << text;
    EXPECT_TRUE(value["name"].is_string());
    EXPECT_LE(value["age"].get<int>(), 120) << text;
    EXPECT_TRUE(value["kind"] == "cat" || value["kind"] == "dog") << text;
  }
}

TEST(Constraint, WhiteSpaceIsNotEndless) {
  const Grammar grammar{Grammar::Kind::kJsonSchema, R"({"type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "boolean"}},
    "required": ["a", "b"], "additionalProperties": false})"};
  for (unsigned seed = 0; seed < 10; ++seed)
    EXPECT_EQ(random_text(grammar, seed).find("  "), std::string::npos);
}

TEST(Constraint, WhateverComesMatchesTheExpression) {
  const std::regex expression("[a-c]{2,5}-[0-9]+");
  for (unsigned seed = 0; seed < 20; ++seed) {
    const std::string text =
        random_text({Grammar::Kind::kRegex, "[a-c]{2,5}-[0-9]+"}, seed);
    EXPECT_TRUE(std::regex_match(text, expression)) << text;
  }
}

TEST(Constraint, AGrammarInLarkMayHoldASchema) {
  const std::string text =
      random_text({Grammar::Kind::kLark,
                   "start: \"<call>\" args \"</call>\"\nargs: %json "
                   "{\"type\": \"object\", \"properties\": {\"x\": {\"enum\": "
                   "[1, 2]}}, \"required\": [\"x\"], "
                   "\"additionalProperties\": false}\n"},
                  1);
  EXPECT_TRUE(text.starts_with("<call>{")) << text;
  EXPECT_TRUE(text.ends_with("}</call>")) << text;
}

TEST(Constraint, ATokenThatMayNotComeIsRefusedAndACopyGoesOnApart) {
  Constraint constraint = compiler().compile({Grammar::Kind::kRegex, "ab*"});
  const int a = *tokenizer().token_id("a"), b = *tokenizer().token_id("b");
  EXPECT_FALSE(allows(mask_of(constraint), b));
  constraint.accept(a);
  Constraint copy = constraint;
  for (int i = 0; i < 3; ++i) copy.accept(b);
  EXPECT_TRUE(copy.may_end());
  EXPECT_FALSE(copy.must_end());
  EXPECT_TRUE(constraint.may_end());
  EXPECT_THROW(constraint.accept(a), std::invalid_argument);
}

TEST(Constraint, SpecialTokensAndIdsWithoutATokenNeverComeAsText) {
  Constraint constraint = compiler().compile({Grammar::Kind::kRegex, "(?s:.*)"});
  const auto mask = mask_of(constraint);
  EXPECT_FALSE(allows(mask, *tokenizer().token_id("<|im_start|>")));
  for (int id = tokenizer().vocab_size(); id < kLogits; ++id)
    EXPECT_FALSE(allows(mask, id)) << id;
  EXPECT_TRUE(allows(mask, end_id()));
}

TEST(Constraint, WhatIsNotSupportedIsSaid) {
  const auto refusal = [](const Grammar& grammar) -> std::string {
    try {
      compiler().compile(grammar);
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
    return "not refused";
  };
  EXPECT_NE(refusal({Grammar::Kind::kRegex, "(?=a)b"}), "not refused");
  EXPECT_NE(refusal({Grammar::Kind::kLark, "start: nothing"}), "not refused");
  EXPECT_NE(refusal({Grammar::Kind::kJsonSchema, "not json"}), "not refused");
  EXPECT_NE(
      refusal({Grammar::Kind::kJsonSchema, R"({"if": {"type": "string"}})"}).find("if"),
      std::string::npos);
}

TEST(Constraint, HostileGrammarsEndSoon) {
  std::string nested = "a";
  for (int i = 0; i < 12; ++i) nested = "(" + nested + "){1,50}";
  for (const Grammar& grammar :
       {Grammar{Grammar::Kind::kRegex, nested},
        Grammar{Grammar::Kind::kJsonSchema, R"({"$ref": "#"})"},
        Grammar{Grammar::Kind::kJsonSchema,
                R"({"type": "string", "pattern": "^(a{1,1000}){1,1000}$"})"}}) {
    const auto start = std::chrono::steady_clock::now();
    try {
      Constraint constraint = compiler().compile(grammar);
      mask_of(constraint);
    } catch (const std::invalid_argument&) {
    }
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
  }
}

}  // namespace
}  // namespace optiq::text
