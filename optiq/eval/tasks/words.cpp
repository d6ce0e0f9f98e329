#include "optiq/eval/tasks/words.h"

#include <fmt/format.h>

namespace optiq::eval {
namespace {

constexpr std::string_view kNouns[] = {
    "anchor",  "apple",   "arrow",   "autumn",  "basket",  "black",    "blanket",
    "bottle",  "bread",   "bridge",  "brown",   "button",  "camel",    "camera",
    "candle",  "canoe",   "canyon",  "carpet",  "castle",  "chain",    "chair",
    "cherry",  "circle",  "cloud",   "coffee",  "coin",    "comet",    "compass",
    "copper",  "corner",  "crown",   "curtain", "desert",  "diamond",  "doctor",
    "dolphin", "drawer",  "drum",    "eagle",   "emerald", "engine",   "falcon",
    "feather", "ferry",   "flag",    "flute",   "forest",  "garden",   "glass",
    "golden",  "granite", "grape",   "green",   "guitar",  "hammer",   "harbor",
    "honey",   "horse",   "island",  "jacket",  "kitchen", "ladder",   "lamp",
    "lemon",   "letter",  "library", "light",   "lion",    "map",      "marble",
    "marker",  "market",  "melon",   "mirror",  "monkey",  "mountain", "museum",
    "music",   "number",  "ocean",   "office",  "orange",  "palace",   "paper",
    "peach",   "pearl",   "pencil",  "pepper",  "piano",   "pillow",   "pink",
    "planet",  "pocket",  "purple",  "rabbit",  "raven",   "ribbon",   "river",
    "rocket",  "ruby",    "sail",    "salt",    "school",  "shelf",    "shell",
    "shield",  "silver",  "sparrow", "spring",  "square",  "stone",    "street",
    "sugar",   "summer",  "sword",   "table",   "teacher", "temple",   "thread",
    "ticket",  "tiger",   "tower",   "train",   "trumpet", "turtle",   "valley",
    "village", "violin",  "wagon",   "water",   "whale",   "white",    "window",
    "winter",  "yellow",  "zebra"};

constexpr std::string_view kFirstNames[] = {
    "Alice", "Anna",   "Bob",    "Carol", "Clara",  "Daniel", "David", "Ella",
    "Emma",  "Felix",  "Frank",  "Gina",  "Grace",  "Henry",  "Hugo",  "Irene",
    "Ivan",  "Jane",   "Julia",  "Karen", "Kevin",  "Laura",  "Leo",   "Lily",
    "Maria", "Mike",   "Nathan", "Nora",  "Olivia", "Oscar",  "Paul",  "Peter",
    "Quinn", "Rachel", "Rosa",   "Sam",   "Simon",  "Tara",   "Tina",  "Tom",
    "Uma",   "Vera",   "Victor", "Wendy", "Will",   "Xavier", "Yara",  "Zoe"};

constexpr std::string_view kLastNames[] = {
    "Adams",  "Bailey", "Baker",   "Barnes", "Bell",     "Bennett", "Brooks",
    "Brown",  "Carter", "Collins", "Cooper", "Evans",    "Garcia",  "Green",
    "Hall",   "James",  "King",    "Lewis",  "Lopez",    "Miller",  "Mitchell",
    "Moore",  "Murphy", "Nelson",  "Parker", "Peterson", "Price",   "Reed",
    "Rogers", "Smith",  "Stewart", "Taylor", "Walker",   "Ward",    "Watson",
    "Wilson", "Wright"};

constexpr std::string_view kCities[] = {
    "Athens",    "Austin",   "Bangkok", "Beijing", "Berlin",  "Boston",    "Budapest",
    "Cairo",     "Chicago",  "Dallas",  "Delhi",   "Denver",  "Dublin",    "Geneva",
    "Hamburg",   "Helsinki", "Lima",    "Lisbon",  "London",  "Lyon",      "Madrid",
    "Melbourne", "Miami",    "Milan",   "Munich",  "Nairobi", "Oslo",      "Paris",
    "Porto",     "Prague",   "Rome",    "Seattle", "Seoul",   "Stockholm", "Sydney",
    "Tokyo",     "Toronto",  "Vienna",  "Warsaw",  "Zurich"};

constexpr std::string_view kJobs[] = {"architect",  "baker",  "chemist",  "cook",
                                      "doctor",     "driver", "engineer", "farmer",
                                      "journalist", "nurse",  "painter",  "pilot",
                                      "plumber",    "singer", "writer"};

}  // namespace

std::span<const std::string_view> nouns() { return kNouns; }
std::span<const std::string_view> first_names() { return kFirstNames; }
std::span<const std::string_view> last_names() { return kLastNames; }
std::span<const std::string_view> cities() { return kCities; }
std::span<const std::string_view> jobs() { return kJobs; }

std::string lower(std::string_view text) {
  std::string result(text);
  for (char& c : result)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return result;
}

std::string some_nouns(Random& random, int n) {
  std::string text;
  for (int i = 0; i < n; ++i) {
    if (i > 0) text += ' ';
    text += random.pick(nouns());
  }
  return text;
}

std::string some_date(Random& random) {
  const int month = random.between(1, 12);
  return fmt::format("2025-{:02}-{:02}", month, random.between(1, 28));
}

std::string some_person(Random& random) {
  const std::string_view first = random.pick(first_names());
  return fmt::format("{} {}", first, random.pick(last_names()));
}

std::string email_of(Random& random, std::string_view person) {
  std::string name = lower(person);
  for (char& c : name)
    if (c == ' ') c = '.';
  constexpr std::string_view kEndings[] = {"com", "net", "org"};
  const int number = random.between(1, 99);
  return fmt::format("{}{}@example.{}", name, number, random.pick(kEndings));
}

}  // namespace optiq::eval
