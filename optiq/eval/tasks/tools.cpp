#include <fmt/format.h>

#include <string>
#include <vector>

#include "optiq/eval/tasks/makers.h"
#include "optiq/eval/tasks/question.h"
#include "optiq/eval/tasks/words.h"

namespace optiq::eval {
namespace {

using Json = nlohmann::ordered_json;

struct Parameter {
  const char* name;
  const char* type;
  const char* description;
  bool required = true;
  std::vector<const char*> choices = {};
};

// What a user asks for, and the arguments that do it.
struct Wish {
  std::string text;
  Json arguments;
};

struct Tool {
  const char* name;
  const char* description;
  std::vector<Parameter> parameters;
  Wish (*wish)(Random& random);
};

template <std::size_t n>
std::string one_of(Random& random, const std::string_view (&values)[n]) {
  return std::string(random.pick(values));
}

std::string some_city(Random& random) { return std::string(random.pick(cities())); }

Wish weather(Random& random) {
  constexpr std::string_view kUnits[] = {"celsius", "fahrenheit"};
  const std::string city = some_city(random), unit = one_of(random, kUnits);
  return {random.coin()
              ? fmt::format("What is the weather in {} in {}?", city, unit)
              : fmt::format("How warm is it in {} right now? Use {}.", city, unit),
          {{"city", city}, {"unit", unit}}};
}

Wish user(Random& random) {
  const std::string name = some_person(random), city = some_city(random);
  const int age = random.between(18, 80);
  return {fmt::format("Create a user named {}, age {}, from {}.", name, age, city),
          {{"name", name}, {"age", age}, {"city", city}}};
}

Wish search(Random& random) {
  const std::string query = some_nouns(random, random.between(1, 3));
  return {fmt::format(fmt::runtime(random.coin() ? "Search the web for \"{}\"."
                                                 : "Look up \"{}\" online."),
                      query),
          {{"query", query}}};
}

Wish sum(Random& random) {
  const int a = random.between(10, 9999), b = random.between(10, 9999);
  return {fmt::format(fmt::runtime(random.coin() ? "Please add {} and {}."
                                                 : "Use the tool to add {} and {}."),
                      a, b),
          {{"a", a}, {"b", b}}};
}

Wish product(Random& random) {
  const int a = random.between(10, 999), b = random.between(10, 99);
  return {fmt::format(fmt::runtime(random.coin() ? "What is {} times {}? Use a tool."
                                                 : "Multiply {} by {} with the tool."),
                      a, b),
          {{"a", a}, {"b", b}}};
}

Wish timer(Random& random) {
  const int minutes = random.between(1, 120);
  const std::string label = some_nouns(random, 1);
  return {fmt::format("Set a timer for {} minutes called {}.", minutes, label),
          {{"minutes", minutes}, {"label", label}}};
}

Wish email(Random& random) {
  const std::string to = email_of(random, some_person(random));
  const std::string subject = some_nouns(random, 2);
  return {fmt::format("Send an email to {} with the subject \"{}\".", to, subject),
          {{"to", to}, {"subject", subject}}};
}

Wish lights(Random& random) {
  constexpr std::string_view kRooms[] = {"kitchen", "garden", "library", "office"};
  const std::string room = one_of(random, kRooms);
  const int level = random.between(1, 99);
  return {fmt::format("Turn on the {} light at level {}.", room, level),
          {{"room", room}, {"on", true}, {"level", level}}};
}

Wish translation(Random& random) {
  constexpr std::string_view kLanguages[] = {"French", "German", "Italian", "Japanese",
                                             "Spanish"};
  const std::string text = some_nouns(random, random.between(2, 4));
  const std::string language = one_of(random, kLanguages);
  return {fmt::format("Translate \"{}\" into {}.", text, language),
          {{"text", text}, {"language", language}}};
}

Wish stock(Random& random) {
  std::string symbol;
  for (int n = random.between(2, 4); n > 0; --n)
    symbol += static_cast<char>('A' + random.below(26));
  return {fmt::format("What is the stock price of {}?", symbol), {{"symbol", symbol}}};
}

Wish flight(Random& random) {
  const std::string from = some_city(random), to = some_city(random),
                    date = some_date(random);
  return {fmt::format("Find a flight from {} to {} on {}.", from, to, date),
          {{"from", from}, {"to", to}, {"date", date}}};
}

Wish dinner(Random& random) {
  const std::string place = some_nouns(random, 1), date = some_date(random);
  const int people = random.between(2, 12);
  return {fmt::format("Book a table for {} people at the {} restaurant on {}.", people,
                      place, date),
          {{"restaurant", place}, {"people", people}, {"date", date}}};
}

const std::vector<Tool>& all_tools() {
  static const std::vector<Tool> kTools = {
      {"get_weather",
       "Current weather for a city",
       {{"city", "string", "City name"},
        {"unit", "string", "Unit", false, {"celsius", "fahrenheit"}}},
       weather},
      {"create_user",
       "Create an account",
       {{"name", "string", "Full name"},
        {"age", "integer", "Age"},
        {"city", "string", "City", false}},
       user},
      {"search_web", "Search the web", {{"query", "string", "Query"}}, search},
      {"add",
       "Add two numbers",
       {{"a", "integer", "First"}, {"b", "integer", "Second"}},
       sum},
      {"multiply",
       "Multiply two numbers",
       {{"a", "integer", "First"}, {"b", "integer", "Second"}},
       product},
      {"set_timer",
       "Start a timer",
       {{"minutes", "integer", "Minutes"}, {"label", "string", "Label", false}},
       timer},
      {"send_email",
       "Send an email",
       {{"to", "string", "Recipient"}, {"subject", "string", "Subject"}},
       email},
      {"set_lights",
       "Control a light",
       {{"room", "string", "Room"},
        {"on", "boolean", "State"},
        {"level", "integer", "Brightness", false}},
       lights},
      {"translate",
       "Translate text",
       {{"text", "string", "Text"}, {"language", "string", "Target language"}},
       translation},
      {"get_stock_price", "Price of a stock", {{"symbol", "string", "Ticker"}}, stock},
      {"find_flight",
       "Find flights",
       {{"from", "string", "Origin"},
        {"to", "string", "Destination"},
        {"date", "string", "Date"}},
       flight},
      {"book_table",
       "Reserve a table",
       {{"restaurant", "string", "Restaurant"},
        {"people", "integer", "Guests"},
        {"date", "string", "Date"}},
       dinner},
  };
  return kTools;
}

Json schema(const Tool& tool) {
  Json properties = Json::object();
  Json required = Json::array();
  for (const Parameter& p : tool.parameters) {
    Json& property = properties[p.name];
    property = {{"type", p.type}, {"description", p.description}};
    if (!p.choices.empty()) property["enum"] = p.choices;
    if (p.required) required.push_back(p.name);
  }
  const Json parameters = {
      {"type", "object"}, {"properties", properties}, {"required", required}};
  return {{"type", "function"},
          {"function",
           {{"name", tool.name},
            {"description", tool.description},
            {"parameters", parameters}}}};
}

}  // namespace

Case make_tools(Random& random, const CaseWish& wish) {
  const auto& all = all_tools();
  const Tool& asked = all[static_cast<std::size_t>(wish.index) % all.size()];
  std::vector<const Tool*> offered;
  for (const Tool& tool : all)
    if (&tool != &asked) offered.push_back(&tool);
  random.shuffle(offered);
  offered.resize(static_cast<std::size_t>(random.between(0, 3)));
  offered.push_back(&asked);
  random.shuffle(offered);
  Json tools = Json::array();
  for (const Tool* tool : offered) tools.push_back(schema(*tool));
  const Wish wanted = asked.wish(random);
  const std::string call =
      spaced_json({{"name", asked.name}, {"arguments", wanted.arguments}});
  return case_of({.user = wanted.text,
                  .tools = tools,
                  .target = "<tool_call>\n" + call + "\n</tool_call>",
                  .answer = call,
                  .scorer = "tool",
                  .max_new_tokens = 120});
}

}  // namespace optiq::eval
