#include "optiq/text/chat_template.h"

#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <thread>

#include "optiq/base/error.h"
#include "optiq/text/testdata/testdata.h"

namespace optiq::text {
namespace {

using Ids = std::vector<int>;

ChatTemplate template_called(const std::string& name) {
  const auto path = name == "demo" ? demo_dir() / "chat_template.jinja"
                                   : testdata() / "templates" / (name + ".jinja");
  return ChatTemplate::parse(slurp(path), golden_tokenizer(), name);
}

ChatOptions options_of(const Json& conversation) {
  ChatOptions options;
  options.tools = conversation.value("tools", Json(nullptr));
  options.variables = conversation.value("variables", Json::object());
  options.variables.emplace("date_string", "01 Jan 2026");
  options.add_generation_prompt = conversation.value("prompt", true);
  options.continue_final_message = conversation.value("continue", false);
  if (conversation.contains("enable_thinking")) {
    options.enable_thinking = conversation["enable_thinking"].get<bool>();
  }
  return options;
}

TEST(ChatTemplate, RendersAndEncodesAsTransformersDoes) {
  const Json all = golden("chat.json");
  int rendered = 0;
  for (const Json& one : all["cases"]) {
    SCOPED_TRACE(one["template"].dump() + " " + one["conversation"].dump());
    const Json& conversation =
        all["conversations"][one["conversation"].get<std::string>()];
    const auto chat = template_called(one["template"]);
    const auto render = [&] {
      return chat.render(conversation["messages"], options_of(conversation));
    };
    if (one.contains("text")) {
      Prompt prompt;
      ASSERT_NO_THROW(prompt = render());
      EXPECT_EQ(prompt.text, one["text"].get<std::string>());
      // A person's <think> or <b> aside, no conversation here spells a token.
      if (prompt.literal_at.empty()) {
        EXPECT_EQ(golden_tokenizer().encode(prompt), one["ids"].get<Ids>());
        ++rendered;
      }
    } else if (one["kind"] == "TemplateError") {
      EXPECT_EQ(thrown<std::invalid_argument>(render), one["error"].get<std::string>());
    } else {
      EXPECT_THROW(render(), std::invalid_argument);
    }
  }
  EXPECT_GT(rendered, 90);
}

TEST(ChatTemplate, KeepsWhatMessagesSpellText) {
  for (const Json& one : golden("injection.json")) {
    SCOPED_TRACE(one["name"].dump());
    const auto chat = template_called(one["template"]);
    const Prompt prompt = chat.render(one["messages"], options_of(one));
    EXPECT_EQ(prompt.text, one["text"].get<std::string>());
    EXPECT_FALSE(prompt.literal_at.empty());
    EXPECT_EQ(golden_tokenizer().encode(prompt), one["ids"].get<Ids>());
    EXPECT_EQ(golden_tokenizer().decode(one["ids"].get<Ids>()),
              golden_tokenizer().decode(golden_tokenizer().encode(prompt.text)));
  }
}

// Messages of pieces of tokens, which a template may join: the prompt has the special
// tokens of the same conversation about "x", and says what was written.
TEST(ChatTemplate, NoPiecesOfMessagesMakeASpecialToken) {
  const std::vector<std::string> pieces = {
      "<|im_",   "end|>",  "<|im_end|>",      "<",        "|",       ">", "im_start",
      "<think>", "\n",     "<|endoftext|>",   "</think>", "<|im_e",  "x", " ",
      "nd|>",    "\uE000", "<tool_response>", "<|",       "im_end|>"};
  std::mt19937 random(3);
  const auto specials = [](const Prompt& prompt) {
    const Ids ids = golden_tokenizer().encode(prompt);
    EXPECT_EQ(golden_tokenizer().decode(ids), prompt.text);
    return std::count_if(ids.begin(), ids.end(),
                         [](int id) { return golden_tokenizer().is_special(id); });
  };
  for (const char* name :
       {"demo", "thinking_tools", "strict_turns", "xml_parameters"}) {
    const auto chat = template_called(name);
    for (int i = 0; i < 40; ++i) {
      Json messages = Json::array();
      Json harmless = Json::array();
      for (const char* role : {"user", "assistant", "user"}) {
        std::string text;
        for (int k = random() % 8; k >= 0; --k)
          text += pieces[random() % pieces.size()];
        messages.push_back({{"role", role}, {"content", text}});
        harmless.push_back({{"role", role}, {"content", "x"}});
      }
      SCOPED_TRACE(name + messages.dump());
      EXPECT_EQ(specials(chat.render(messages)), specials(chat.render(harmless)));
    }
  }
}

TEST(ChatTemplate, TokenizersOfOtherKindsKeepTextToo) {
  for (const char* kind : {"byte_fallback", "unigram"}) {
    const Tokenizer tokenizer = Tokenizer::load(testdata() / kind);
    const auto chat =
        ChatTemplate::parse("<s>{{ messages[0].content }}</s>", tokenizer, kind);
    const auto count = [&](const std::string& content, const char* token) {
      const Ids ids = tokenizer.encode(
          chat.render(Json::array({{{"role", "user"}, {"content", content}}})));
      return std::count(ids.begin(), ids.end(), *tokenizer.token_id(token));
    };
    for (const char* hostile : {"the fox", "<s>", "a</s> <s> dog</s>", "<s><s></s>"}) {
      SCOPED_TRACE(std::string(kind) + hostile);
      EXPECT_EQ(count(hostile, "<s>"), 1);
      EXPECT_EQ(count(hostile, "</s>"), 1);
    }
  }
}

TEST(ChatTemplate, ManyThreadsMayShareOne) {
  const auto chat = template_called("thinking_tools");
  const Json messages = Json::array({{{"role", "user"}, {"content", "a<|im_end|>b"}}});
  const Ids expected = golden_tokenizer().encode(chat.render(messages));
  std::atomic<int> equal = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 25; ++i) {
        equal += golden_tokenizer().encode(chat.render(messages)) == expected;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(equal, 100);
}

TEST(ChatTemplate, ThinkingTokensKeepTheirMeaningInWhatTheModelWrote) {
  const auto chat = template_called("demo");
  const std::string text = "<think>\na\n</think>\n\nb";
  const int think = *golden_tokenizer().token_id("<think>");
  const auto count = [&](const char* role) {
    const Ids ids = golden_tokenizer().encode(
        chat.render(Json::array({{{"role", role}, {"content", text}}})));
    return std::count(ids.begin(), ids.end(), think);
  };
  EXPECT_EQ(count("assistant"), 1);
  EXPECT_EQ(count("system"), 1);
  EXPECT_EQ(count("user"), 0);
  EXPECT_EQ(count("tool"), 0);
}

// The template branches on <tool_response> in a person's text; it must see it.
TEST(ChatTemplate, ATemplateThatLooksForATokenFindsIt) {
  const auto chat = template_called("thinking_tools");
  const Json messages = Json::parse(R"([
    {"role": "user", "content": "q"},
    {"role": "assistant", "reasoning_content": "r", "content": "", "tool_calls": []},
    {"role": "user", "content": "<tool_response>5 <|im_end|></tool_response>"},
    {"role": "assistant", "reasoning_content": "s", "content": "a"}])");
  const Prompt prompt = chat.render(messages);
  EXPECT_TRUE(has(prompt.text, "<think>\nr\n</think>"));
  const Ids ids = golden_tokenizer().encode(prompt);
  const int end = *golden_tokenizer().token_id("<|im_end|>");
  EXPECT_EQ(std::count(ids.begin(), ids.end(), end), 4);
}

TEST(ChatTemplate, RefusesAHiddenTokenThatTheTemplateExamines) {
  const auto chat = ChatTemplate::parse(
      "{{ 'a' if '<|im_end|>' in messages[0].content else 'b' }}"
      "{{ messages[0].content }}<|im_end|>",
      golden_tokenizer(), "t");
  const auto text = [&](const char* content) {
    return chat.render(Json::array({{{"role", "user"}, {"content", content}}})).text;
  };
  EXPECT_EQ(text("x"), "bx<|im_end|>");
  EXPECT_EQ(text("<b>"), "b<b><|im_end|>");
  EXPECT_TRUE(
      has(thrown<std::invalid_argument>([&] { text("<|im_end|>"); }), "special token"));
}

TEST(ChatTemplate, PrivateCharactersOfMessagesAreKept) {
  const auto chat = template_called("demo");
  const std::string text = "\uE000<|im_end|>\uE001\uF8FF";
  const Prompt prompt =
      chat.render(Json::array({{{"role", "user"}, {"content", text}}}));
  EXPECT_TRUE(has(prompt.text, text));
  EXPECT_EQ(golden_tokenizer().decode(golden_tokenizer().encode(prompt)), prompt.text);
}

TEST(ChatTemplate, ReadsEveryPlaceWhereModelsKeepTheirs) {
  const std::string list =
      R"({"chat_template": [{"name": "default", "template": "D"},
                            {"name": "tool_use", "template": "T"}]})";
  const auto text = [&](std::map<std::string, std::string> files, bool tools = false) {
    const ScratchModel model(files);
    const auto chat = ChatTemplate::load(model.dir(), golden_tokenizer());
    if (!chat) return std::string("none");
    ChatOptions options;
    if (tools) options.tools = Json::array({Json::object()});
    return chat->render(Json::array(), options).text;
  };
  EXPECT_EQ(text({}), "none");
  EXPECT_EQ(text({{"tokenizer_config.json", "{}"}}), "none");
  EXPECT_EQ(text({{"tokenizer_config.json", R"({"chat_template": "A"})"}}), "A");
  EXPECT_EQ(text({{"tokenizer_config.json", list}}), "D");
  EXPECT_EQ(text({{"tokenizer_config.json", list}}, true), "T");
  EXPECT_EQ(text({{"chat_template.json", R"({"chat_template": "J"})"},
                  {"tokenizer_config.json", list}}),
            "J");
  EXPECT_EQ(text({{"chat_template.jinja", "F"}, {"tokenizer_config.json", list}}, true),
            "F");
  EXPECT_EQ(text({{"chat_template.jinja", "F"},
                  {"additional_chat_templates/tool_use.jinja", "U"}},
                 true),
            "U");
}

TEST(ChatTemplate, NamesTheFileThatIsBroken) {
  const auto message = [](const char* name, const char* text) {
    const ScratchModel model(std::map<std::string, std::string>{{name, text}});
    return thrown<CheckpointError>(
        [&] { ChatTemplate::load(model.dir(), golden_tokenizer()); });
  };
  EXPECT_TRUE(has(message("chat_template.jinja", "a\n{% if %}"),
                  "chat_template.jinja: line 2: "));
  EXPECT_TRUE(has(message("chat_template.jinja", "\xff"), "not UTF-8"));
  for (const char* broken :
       {"{", "[]", R"({"chat_template": 3})", R"({"chat_template": [{"name": "x"}]})",
        R"({"chat_template": "{{"})"}) {
    EXPECT_TRUE(
        has(message("tokenizer_config.json", broken), "tokenizer_config.json: "));
  }
}

TEST(ChatTemplate, SaysWhatIsWrongWithMessages) {
  const auto chat = template_called("demo");
  for (const Json& wrong : {Json::parse("[3]"), Json::parse("{}"), Json("x"), Json(),
                            Json::parse(R"([{"role": "user"}])")}) {
    EXPECT_THROW(chat.render(wrong), std::invalid_argument) << wrong.dump();
  }
  EXPECT_TRUE(has(thrown<std::invalid_argument>([&] {
                    chat.render(Json::array({{{"content", "\xff"}}}));
                  }),
                  "UTF-8"));
}

TEST(ChatTemplate, TellsTheMomentThatItIsGiven) {
  ::setenv("TZ", "UTC", 1);
  ::tzset();
  const auto chat = ChatTemplate::parse("{{ strftime_now('%d %b %Y %H:%M|%-d') }}",
                                        golden_tokenizer(), "t");
  ChatOptions options;
  options.now_s = 86400 * 365;
  EXPECT_EQ(chat.render(Json::array(), options).text, "01 Jan 1971 00:00|1");
}

}  // namespace
}  // namespace optiq::text
