// What the cases of every task keep to, and what each task alone promises.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "optiq/eval/tasks/filler.h"
#include "optiq/eval/tasks/question.h"
#include "optiq/eval/tasks/task.h"
#include "optiq/text/tokenizer.h"

namespace optiq::eval {
namespace {

const text::Tokenizer& tokenizer() {
  static const auto loaded = text::Tokenizer::load(OPTIQ_SOURCE_DIR "/models/demo");
  return loaded;
}

// Without a chat template: whatever it adds is the same for each case.
int count_tokens(const Case& c) {
  return static_cast<int>(tokenizer().encode(c.prompt).size() +
                          tokenizer().encode(c.target).size());
}

std::vector<Case> make(const char* task, const MakeOptions& options = {}) {
  return make_cases(*find_task(task), options, count_tokens);
}

std::string user_text(const Case& c) { return c.messages.back().at("content"); }

int occurrences(const std::string& text, const std::string& of) {
  int n = 0;
  for (std::size_t at = 0; (at = text.find(of, at)) != std::string::npos; ++at) ++n;
  return n;
}

std::string all_text(const std::vector<Case>& cases) {
  std::string text;
  for (const Case& c : cases) text += c.id + c.prompt + c.target + c.tools.dump();
  return text;
}

class EveryTask : public ::testing::TestWithParam<const Task*> {};

std::vector<const Task*> makers() {
  std::vector<const Task*> found;
  for (const Task& task : tasks())
    if (task.make) found.push_back(&task);
  return found;
}

INSTANTIATE_TEST_SUITE_P(Tasks, EveryTask, ::testing::ValuesIn(makers()),
                         [](const auto& info) {
                           return std::string(info.param->name);
                         });

TEST_P(EveryTask, CasesDependOnTheSeedAndTheirIndexAlone) {
  const char* task = GetParam()->name;
  const auto cases = make(task, {.seed = 7, .count = 6});
  ASSERT_EQ(cases.size(), 6u);
  EXPECT_EQ(all_text(cases), all_text(make(task, {.seed = 7, .count = 6})));
  EXPECT_NE(all_text(cases), all_text(make(task, {.seed = 8, .count = 6})));
  EXPECT_EQ(all_text({cases[0], cases[1]}),
            all_text(make(task, {.seed = 7, .count = 2})));
  std::set<std::string> different;
  for (const Case& c : cases) different.insert(c.prompt);
  EXPECT_EQ(different.size(), cases.size());
}

TEST_P(EveryTask, TheTargetIsRightAndACorruptedOneIsNot) {
  for (const Case& c : make(GetParam()->name, {.count = 24})) {
    SCOPED_TRACE(c.id);
    EXPECT_TRUE(is_correct(*c.scorer, c.target, c.answer)) << c.target;
    EXPECT_FALSE(is_correct(*c.scorer, "", c.answer));
    // Another letter or digit, where the answer has its last one.
    std::string wrong = c.target;
    const std::size_t at = wrong.find_last_of("0123456789abcdefghijklmnopqrstuvwxyz",
                                              c.scorer->name == std::string("tool")
                                                  ? wrong.find("</tool_call>")
                                                  : std::string::npos);
    wrong[at] = wrong[at] == '1' ? '2' : '1';
    EXPECT_FALSE(is_correct(*c.scorer, wrong, c.answer)) << wrong;
  }
}

TEST_P(EveryTask, AnAnswerHasRoomInItsLimit) {
  for (const Case& c : make(GetParam()->name, {.count = 48}))
    EXPECT_LT(static_cast<int>(tokenizer().encode(c.target).size()), c.max_new_tokens)
        << c.target;
}

TEST_P(EveryTask, ThePromptWithoutATemplateSaysWhatTheMessagesSay) {
  for (const Case& c : make(GetParam()->name, {.count = 2}))
    for (const auto& message : c.messages)
      EXPECT_EQ(occurrences(c.prompt, message.at("content")), 1);
}

TEST(Length, IsReachedFromBelowAndNeverPassed) {
  for (const char* task : {"needle", "hashhop"})
    for (const int length : {300, 1024, 4096})
      for (const Case& c : make(task, {.seed = 3, .count = 5, .lengths = {length}})) {
        SCOPED_TRACE(c.id);
        EXPECT_EQ(c.length, length);
        EXPECT_LE(count_tokens(c), length);
        EXPECT_GT(count_tokens(c), length - kLengthSlack);
      }
}

TEST(Length, TooSmallForAnyCaseSaysHowManyTokensThatTakes) {
  for (const char* task : {"needle", "hashhop"}) {
    try {
      make(task, {.count = 1, .lengths = {20}});
      FAIL();
    } catch (const std::invalid_argument& error) {
      EXPECT_NE(std::string(error.what()).find("at least"), std::string::npos);
    }
  }
}

// Pairs of key and value that the text of a needle's case states.
std::map<std::string, std::string> statements(const std::string& text) {
  static const std::regex kStatement(
      R"((?:The|Note that the|Remember this: the) ([a-z ]+ for [a-z]+) is (\d{5,7})\.)");
  std::map<std::string, std::string> found;
  for (std::sregex_iterator at(text.begin(), text.end(), kStatement), end; at != end;
       ++at) {
    EXPECT_FALSE(found.contains((*at)[1])) << (*at)[1];
    found[(*at)[1]] = (*at)[2];
  }
  return found;
}

TEST(Needle, TheAskedKeyIsStatedOnceWithItsValueAmongLikeOnes) {
  for (const int distractors : {0, 1, 3, kMostDistractors})
    for (const Case& c :
         make("needle", {.count = 40, .lengths = {700}, .distractors = distractors})) {
      SCOPED_TRACE(c.id);
      const std::string text = user_text(c);
      const auto known = statements(text);
      EXPECT_EQ(known.size(), static_cast<std::size_t>(distractors + 1));
      const std::string question = text.substr(text.rfind("Question: "));
      int same_kind = 0, same_name = 0, asked = 0;
      for (const auto& [key, value] : known) {
        EXPECT_EQ(occurrences(text, value), 1);
        if (value != c.answer) continue;
        ++asked;
        EXPECT_NE(question.find(key), std::string::npos) << question;
        EXPECT_EQ(occurrences(text, key + " is "), 1);
        const std::size_t name = key.find(" for ") + 5;
        for (const auto& [other, _] : known) {
          if (other == key) continue;
          // The same text up to the first letter of the noun, or the same noun.
          same_kind += other.substr(0, name + 1) == key.substr(0, name + 1) ? 1 : 0;
          same_name += other.ends_with(key.substr(name - 5)) ? 1 : 0;
        }
      }
      EXPECT_EQ(asked, 1);
      EXPECT_EQ(same_name, distractors / 2);
      EXPECT_EQ(same_kind, (distractors + 1) / 2);
    }
}

TEST(Needle, DepthsOfTheAskedKeyCoverTheText) {
  std::vector<int> quarters(4);
  for (const Case& c : make("needle", {.count = 40, .lengths = {2048}})) {
    const std::string text = user_text(c);
    ++quarters[4 * text.find(c.answer) / text.size()];
  }
  for (const int n : quarters) EXPECT_GE(n, 6);
}

TEST(Hashhop, ArrowsLeadFromTheStartToTheAnswer) {
  std::set<int> hops;
  for (const Case& c : make("hashhop", {.count = 24, .lengths = {900}})) {
    SCOPED_TRACE(c.id);
    std::istringstream lines(user_text(c));
    std::map<std::string, std::string> map;
    std::set<std::string> values;
    std::string start;
    int asked = 0;
    for (std::string line; std::getline(lines, line);) {
      if (const auto at = line.find(" -> "); at != std::string::npos) {
        EXPECT_TRUE(map.emplace(line.substr(0, at), line.substr(at + 4)).second);
        EXPECT_TRUE(values.insert(line.substr(at + 4)).second);
      } else if (line.starts_with("Start at ")) {
        std::istringstream words(line);
        std::string word;
        words >> word >> word >> start >> word >> word >> asked;
      }
    }
    EXPECT_EQ(asked, c.hops);
    hops.insert(asked);
    std::string chain = start;
    for (int i = 0; i < asked; ++i) {
      ASSERT_TRUE(map.contains(start));
      start = map[start];
      chain += " -> " + start;
    }
    EXPECT_EQ(chain, c.answer);
  }
  EXPECT_EQ(hops, (std::set<int>{1, 2, 3, 4}));
}

TEST(Hashhop, KeysBeginLikeOthersOfOtherNumbers) {
  const Case c = make("hashhop", {.count = 1, .lengths = {2000}})[0];
  static const std::regex kKey(R"(\n([a-z]+)(\d+) ->)");
  const std::string text = user_text(c);
  std::map<std::string, std::set<std::string>> numbers;
  for (std::sregex_iterator at(text.begin(), text.end(), kKey), end; at != end; ++at)
    numbers[(*at)[1]].insert((*at)[2]);
  const auto shared = std::ranges::count_if(
      numbers, [](const auto& entry) { return entry.second.size() > 1; });
  EXPECT_GT(2 * shared, static_cast<std::ptrdiff_t>(numbers.size()));
}

// The steps as a reader would check them.
TEST(Arithmetic, EveryStepHolds) {
  static const std::regex kStep(R"((\d+) ([-+*]) (\d+) = (\d+))");
  for (const Case& c : make("arithmetic", {.count = 140})) {
    SCOPED_TRACE(c.target);
    long long last = -1;
    for (std::sregex_iterator at(c.target.begin(), c.target.end(), kStep), end;
         at != end; ++at) {
      const long long a = std::stoll((*at)[1]), b = std::stoll((*at)[3]);
      const char sign = (*at)[2].str()[0];
      last = std::stoll((*at)[4]);
      EXPECT_EQ(sign == '+' ? a + b : sign == '-' ? a - b : a * b, last);
    }
    EXPECT_EQ(c.answer, std::to_string(last));
    EXPECT_TRUE(c.target.ends_with("\n#### " + c.answer));
  }
}

TEST(JsonTask, TheAnswerIsAnObjectWhoseKeysAndValuesAreInTheQuestion) {
  for (const Case& c : make("json", {.count = 40})) {
    const auto answer = nlohmann::ordered_json::parse(c.answer);
    const std::string text = user_text(c);
    ASSERT_GE(answer.size(), 2u);
    for (const auto& [key, value] : answer.items()) {
      EXPECT_NE(text.find(key), std::string::npos) << text;
      const std::string shown = value.is_string()
                                    ? value.get<std::string>()
                                    : fmt::format("{}", value.get<double>());
      EXPECT_NE(text.find(shown), std::string::npos) << shown << " in " << text;
    }
  }
}

TEST(Tools, TheCallFitsTheSchemaOfATool) {
  for (const Case& c : make("tools", {.count = 48})) {
    const auto call = nlohmann::ordered_json::parse(c.answer);
    const auto tool = std::ranges::find_if(
        c.tools, [&](const auto& t) { return t["function"]["name"] == call["name"]; });
    ASSERT_NE(tool, c.tools.end());
    const auto& parameters = (*tool)["function"]["parameters"];
    for (const auto& [key, value] : call["arguments"].items()) {
      ASSERT_TRUE(parameters["properties"].contains(key)) << key;
      const std::string type = parameters["properties"][key]["type"];
      EXPECT_EQ(type, value.is_string()    ? "string"
                      : value.is_boolean() ? "boolean"
                                           : "integer");
    }
    for (const std::string name : parameters["required"])
      EXPECT_TRUE(call["arguments"].contains(name)) << name;
  }
}

// SplitMix64's own first values for seed 0.
TEST(Random, IsTheGeneratorThatItNames) {
  Random random(0);
  EXPECT_EQ(random.next(), 0xe220a8397b1dcdafu);
  EXPECT_EQ(random.next(), 0x6e789e6aa1b965f4u);
}

TEST(Filler, GoesAroundWhereTheTextEnds) {
  Random random(1);
  const Filler filler(random);
  const std::string text = filler.words(40000);
  EXPECT_EQ(text.rfind(filler.words(100), 0), 0u);
  EXPECT_GE(occurrences(text, filler.words(30)), 2);
}

TEST(Insert, PutsLinesBetweenSentencesInTheOrderOfTheirDepths) {
  EXPECT_EQ(insert("Mrs. Smith was here again. She went away.\n\nAnd came back.",
                   {{990, "C."}, {400, "B."}, {0, "A."}}),
            "A.\n\nMrs. Smith was here again.\n\nB.\n\nShe went away.\n\nAnd came "
            "back.\n\nC.");
  EXPECT_EQ(insert("", {{500, "B."}, {0, "A."}}), "A.\n\nB.");
}

TEST(SpacedJson, IsTheSameValueWithSpaces) {
  const auto value =
      nlohmann::ordered_json::parse(R"({"b":[1,"x, y"],"a":{"c":true},"d":{}})");
  EXPECT_EQ(spaced_json(value), R"({"b": [1, "x, y"], "a": {"c": true}, "d": {}})");
}

}  // namespace
}  // namespace optiq::eval
