// The Jinja of templates: equal to Jinja2's, and bounded in all that it may use.
#include <gtest/gtest.h>

#include "optiq/base/error.h"
#include "optiq/text/chat_template.h"
#include "optiq/text/testdata/testdata.h"

namespace optiq::text {
namespace {

std::string rendered(const std::string& source,
                     const Json& variables = Json::object()) {
  ChatOptions options;
  options.variables = variables;
  return ChatTemplate::parse(source, golden_tokenizer(), "t")
      .render(Json::array(), options)
      .text;
}

TEST(TemplateDialect, RendersAsJinja2Does) {
  const Json all = golden("expressions.json");
  for (const Json& one : all["cases"]) {
    const auto source = one["source"].get<std::string>();
    SCOPED_TRACE(source);
    if (one.contains("text")) {
      try {
        EXPECT_EQ(rendered(source, all["variables"]), one["text"].get<std::string>());
      } catch (const std::exception& error) {
        ADD_FAILURE() << error.what();
      }
    } else {
      EXPECT_ANY_THROW(rendered(source, all["variables"]));
    }
  }
}

TEST(TemplateDialect, RaiseExceptionSaysOnlyWhatTheTemplateSays) {
  const std::string inside_a_macro =
      "{% macro m() %}\n{{ raise_exception('Roles must alternate: ' ~ 1e-7) }}"
      "{% endmacro %}\n{{ m() }}";
  EXPECT_EQ(
      thrown<std::invalid_argument>([] { rendered("{{ raise_exception('') }}"); }), "");
  EXPECT_TRUE(
      has(thrown<std::invalid_argument>([&] { rendered(inside_a_macro); }), "Roles"));
}

// Each would take more time or memory than there is, or overflow a stack.
TEST(TemplateDialect, HostileTemplatesEndInAnError) {
  const std::string grow =
      "{% set ns = namespace(x='0123456789') %}{% for i in range(99) %}";
  const std::string nest =
      "{% set ns = namespace(x=[]) %}{% for i in range(90000) %}{% for j in range(9) %}"
      "{% set ns.x = [ns.x] %}{% endfor %}{% endfor %}";
  const std::string graph =
      "{% set ns = namespace(x=['leaf']) %}{% for i in range(60) %}"
      "{% set ns.x = [ns.x, ns.x] %}{% endfor %}";
  const std::string deep_expression = "{{ " + std::string(100000, '(');
  std::string deep_blocks;
  for (int i = 0; i < 20000; ++i) deep_blocks += "{% if 1 %}";
  for (const std::string& source : {
           std::string("{% for a in range(99999) %}{% for b in range(99999) %}"
                       "{% endfor %}{% endfor %}"),
           std::string("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"),
           grow + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
           grow + "{% set ns.x = ns.x + ns.x %}{% endfor %}",
           grow + "{% set ns.x = ns.x.replace('0', ns.x) %}{% endfor %}",
           grow + "{% set ns.x = ns.x.join([ns.x, ns.x, ns.x]) %}{% endfor %}",
           grow + "{% set ns.x = [ns.x, ns.x] | join(ns.x) %}{% endfor %}",
           grow + "{% set ns.x = ns.x | replace('0', ns.x) %}{% endfor %}",
           grow + "{% set ns.x = '%s%s' | format(ns.x, ns.x) %}{% endfor %}",
           grow + "{% set ns.x = '{0}{0}'.format(ns.x) %}{% endfor %}",
           std::string("{{ 'x' * 99999999999 }}"),
           std::string("{{ ('x' * 1000000) | replace('x', 'x' * 1000000) }}"),
           std::string("{{ '{:>99999999999}'.format(1) }}"),
           std::string("{{ '%99999999999d' | format(1) }}"),
           std::string(
               "{{ 'x' | indent(99999999999) }}{{ 'x\\nx' | indent(99999999999) }}"),
           std::string("{{ 'x' | center(99999999999) }}"),
           std::string("{{ [1] | tojson(indent=99999999999) }}"),
           std::string("{{ range(99999999999) | list }}"),
           graph + "{{ ns.x }}",
           graph + "{{ ns.x | tojson }}",
           graph + "{{ ns.x | string }}",
           nest + "{{ ns.x }}",
           nest + "{{ ns.x | tojson }}",
           deep_expression,
           deep_blocks,
           std::string("{{ ") + std::string(100000, '[') + std::string(100000, ']') +
               " }}",
       }) {
    SCOPED_TRACE(source.substr(0, 160));
    EXPECT_ANY_THROW(rendered(source));
  }
}

// Printing by `~` and hashing ask for no fuel: only the deadline ends them. The thread
// that is left behind ends with its process.
TEST(TemplateDialectDeathTest, WorkWithoutEndEndsAtTheDeadline) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  const auto run_twice = [] {
    const auto chat = ChatTemplate::parse(
        "{% set ns = namespace(x=['leaf']) %}{% for i in range(60) %}"
        "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x ~ {ns.x: 1} }}",
        golden_tokenizer(), "t");
    int failures = 0;
    for (int i = 0; i < 2; ++i) {
      try {
        chat.render(Json::array());
      } catch (const CheckpointError&) {
        ++failures;
      }
    }
    std::_Exit(failures == 2 ? 0 : 1);
  };
  EXPECT_EXIT(run_twice(), testing::ExitedWithCode(0), "");
}

TEST(TemplateDialect, DeeplyNestedMessagesEndInAnError) {
  Json deep = Json::array();
  for (int i = 0; i < 2000; ++i) deep = Json::array({deep});
  EXPECT_THROW(rendered("{{ x }}", {{"x", deep}}), std::invalid_argument);
}

TEST(TemplateDialect, LongConversationsDoNotRunOutOfFuel) {
  const auto source = slurp(testdata() / "templates/thinking_tools.jinja");
  const auto chat = ChatTemplate::parse(source, golden_tokenizer(), "t");
  Json messages = Json::array();
  for (int i = 0; i < 4000; ++i) {
    messages.push_back({{"role", i % 2 ? "assistant" : "user"}, {"content", "hm"}});
  }
  messages.push_back(
      {{"role", "user"}, {"content", std::string(4 << 20, 'x') + "<|im_end|>"}});
  const Prompt prompt = chat.render(messages);
  EXPECT_GT(prompt.text.size(), std::size_t{4} << 20);
  EXPECT_FALSE(prompt.literal_at.empty());
}

}  // namespace
}  // namespace optiq::text
