#include "number_list.h"

#include <fmt/format.h>

#include <charconv>
#include <string_view>

namespace optiq::app {
namespace {

int parse(std::string_view part, const std::string& flag, int low, int high) {
  int value = 0;
  const char* end = part.data() + part.size();
  const auto [stop, error] = std::from_chars(part.data(), end, value);
  if (error != std::errc{} || stop != end || value < low || value > high)
    throw CLI::ValidationError(
        flag, fmt::format("expected {} to {}, several with commas, found '{}'", low,
                          high, part));
  return value;
}

}  // namespace

CLI::Option* add_number_list(CLI::App& app, const std::string& flag,
                             std::vector<int>& to, const std::string& description,
                             int low, int high) {
  auto* option = app.add_option_function<std::string>(
      flag,
      [&to, flag, low, high](const std::string& text) {
        std::vector<int> numbers;
        for (std::size_t begin = 0, end = 0; end != std::string::npos;
             begin = end + 1) {
          end = text.find(',', begin);
          numbers.push_back(parse(std::string_view(text).substr(begin, end - begin),
                                  flag, low, high));
        }
        to = std::move(numbers);
      },
      description);
  if (!to.empty()) option->default_str(fmt::format("{}", fmt::join(to, ",")));
  return option->type_name("N,N,...");
}

}  // namespace optiq::app
