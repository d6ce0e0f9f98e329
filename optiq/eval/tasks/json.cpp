#include <fmt/format.h>

#include <string>
#include <vector>

#include "optiq/eval/tasks/makers.h"
#include "optiq/eval/tasks/question.h"
#include "optiq/eval/tasks/words.h"

namespace optiq::eval {
namespace {

using Json = nlohmann::ordered_json;

struct Field {
  const char* key;
  Json value;
  std::string sentence;
};

// One of the forms, with {} for the value.
template <class T>
Field field(Random& random, const char* key, const T& value,
            std::initializer_list<const char*> forms) {
  const auto form = std::span(forms.begin(), forms.size());
  return {key, value, fmt::format(fmt::runtime(random.pick(form)), value)};
}

Field city_field(Random& random) {
  return field(random, "city", std::string(random.pick(cities())),
               {"The city is {}.", "Located in {}.", "It is in {}."});
}

std::vector<Field> person(Random& random) {
  const std::string name = some_person(random);
  const auto phone =
      fmt::format("{}-{}", random.between(100, 999), random.between(1000, 9999));
  return {
      field(random, "name", name,
            {"Name: {}.", "This is {}.", "The person is called {}."}),
      field(random, "age", random.between(18, 90),
            {"Age {}.", "They are {} years old."}),
      city_field(random),
      field(random, "job", std::string(random.pick(jobs())),
            {"Profession: {}.", "Works as a {}."}),
      field(random, "phone", phone, {"Phone {}.", "The phone number is {}."}),
      field(random, "email", email_of(random, name), {"Email: {}.", "Contact at {}."})};
}

std::vector<Field> order(Random& random) {
  constexpr double kCents[] = {0.5, 0.25, 0.99};
  const int dollars = random.between(5, 900);
  Json price = dollars;  // whole numbers as such: 846, not 846.0
  if (random.below(4) > 0) price = dollars + random.pick(kCents);
  const auto id = fmt::format("{}{}", static_cast<char>('A' + random.below(8)),
                              random.between(10000, 99999));
  return {field(random, "order_id", id, {"Order number {}.", "Order {} was placed."}),
          field(random, "item", std::string(random.pick(nouns())),
                {"Product: {}.", "The item is a {}."}),
          field(random, "quantity", random.between(2, 40),
                {"Quantity {}.", "{} units were requested."}),
          {"price", price,
           fmt::format("{} {} dollars.", random.coin() ? "The price is" : "It costs",
                       price.dump())},
          field(random, "customer", some_person(random),
                {"Customer name: {}.", "The customer is {}."}),
          city_field(random)};
}

}  // namespace

Case make_json(Random& random, const CaseWish& wish) {
  auto fields = wish.index % 2 == 0 ? person(random) : order(random);
  random.shuffle(fields);
  fields.resize(static_cast<std::size_t>(random.between(3, 6)));
  std::vector<std::string> sentences;
  for (const Field& f : fields) sentences.push_back(f.sentence);
  random.shuffle(fields);
  fields.resize(
      static_cast<std::size_t>(random.between(2, static_cast<int>(fields.size()))));
  std::vector<std::string> keys;
  Json answer = Json::object();
  for (const Field& f : fields) {
    keys.emplace_back(f.key);
    answer[f.key] = f.value;
  }
  constexpr std::string_view kForms[] = {
      "Extract {0} as JSON.\n\nText: {1}", "Read this and output JSON with {0}.\n{1}",
      "Text: {1}\n\nReturn a JSON object with the keys {0}."};
  const std::string text = spaced_json(answer);
  return case_of({.system = "You are a helpful assistant. Answer with JSON only.",
                  .user = fmt::format(fmt::runtime(random.pick(kForms)),
                                      fmt::join(keys, ", "), fmt::join(sentences, " ")),
                  .target = text,
                  .answer = text,
                  .scorer = "json",
                  .max_new_tokens = 160});
}

}  // namespace optiq::eval
