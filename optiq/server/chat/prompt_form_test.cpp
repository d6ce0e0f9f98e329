#include "optiq/server/chat/prompt_form.h"

#include <gtest/gtest.h>

#include <fstream>

#include "optiq/server/chat/tools/tool_format.h"
#include "optiq/text/tokenizer.h"

namespace optiq::server {
namespace {

text::ChatTemplate parse(const std::string& source) {
  static const auto* const tokenizer =
      new text::Tokenizer(text::Tokenizer::load(OPTIQ_SOURCE_DIR "/models/demo"));
  return text::ChatTemplate::parse(source, *tokenizer, "test.jinja");
}

text::ChatTemplate file(const std::string& name) {
  return parse([&] {
    std::ifstream in(OPTIQ_SOURCE_DIR "/optiq/text/testdata/templates/" + name +
                     ".jinja");
    return std::string(std::istreambuf_iterator<char>(in), {});
  }());
}

text::ChatTemplate demo() {
  std::ifstream in(OPTIQ_SOURCE_DIR "/models/demo/chat_template.jinja");
  return parse(std::string(std::istreambuf_iterator<char>(in), {}));
}

// Refuses a system message anywhere but first, and two messages of one role.
constexpr const char* kStrict = R"({% for m in messages %}
{%- if m.role == 'system' and not loop.first %}{{ raise_exception('System first') }}{% endif %}
{%- if not loop.first and messages[loop.index0 - 1].role == m.role %}{{ raise_exception('Alternate') }}{% endif %}
[{{ m.role }}] {{ m.content }}
{% endfor %})";

Json chat(std::initializer_list<std::pair<const char*, const char*>> messages) {
  Json list = Json::array();
  for (const auto& [role, content] : messages)
    list.push_back({{"role", role}, {"content", content}});
  return list;
}

TEST(PromptForm, ATemplateIsAskedWhatItTakes) {
  const TemplateTraits free = traits_of(demo());
  EXPECT_TRUE(free.system_first && free.system_inline && free.same_role_twice);
  const TemplateTraits strict = traits_of(parse(kStrict));
  EXPECT_TRUE(strict.system_first);
  EXPECT_FALSE(strict.system_inline);
  EXPECT_FALSE(strict.same_role_twice);
}

TEST(PromptForm, ASystemMessageFurtherOnBecomesTextOfTheMessageBefore) {
  const TemplateTraits strict{true, false, true};
  EXPECT_EQ(
      fit_messages(chat({{"system", "S"}, {"user", "U"}, {"system", "I"}}), strict),
      chat({{"system", "S"}, {"user", "U\n\nI"}}));
  EXPECT_EQ(
      fit_messages(
          chat({{"user", "U"}, {"assistant", "A"}, {"system", "I"}, {"user", "V"}}),
          strict),
      chat({{"user", "U"}, {"assistant", "A"}, {"user", "I\n\nV"}}));
  const Json same = chat({{"user", "U"}, {"system", "I"}});
  EXPECT_EQ(fit_messages(same, TemplateTraits{}), same);
}

TEST(PromptForm, MessagesOfOneRoleAreJoinedWhereTheyMustAlternate) {
  const TemplateTraits strict{true, true, false};
  EXPECT_EQ(
      fit_messages(chat({{"user", "a"}, {"user", "b"}, {"assistant", "c"}}), strict),
      chat({{"user", "a\n\nb"}, {"assistant", "c"}}));
}

TEST(PromptForm, WhatFitsIsTakenByTheTemplate) {
  const auto strict = parse(kStrict);
  const Json messages = fit_messages(
      chat({{"system", "S"}, {"user", "a"}, {"system", "I"}, {"user", "b"}}),
      traits_of(strict));
  EXPECT_NO_THROW(strict.render(messages));
}

TEST(ToolFormat, IsFoundInWhatTheTemplateWrites) {
  EXPECT_STREQ(tool_format_of(demo()).name, "hermes");
  EXPECT_STREQ(tool_format_of(file("thinking_tools")).name, "hermes");
  EXPECT_STREQ(tool_format_of(file("xml_parameters")).name, "xml");
  EXPECT_STREQ(tool_format_of(file("header_turns")).name, "llama");
}

}  // namespace
}  // namespace optiq::server
