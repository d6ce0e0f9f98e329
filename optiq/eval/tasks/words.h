// The words that questions are made of.
#pragma once
#include <span>
#include <string>
#include <string_view>

#include "optiq/eval/tasks/random.h"

namespace optiq::eval {

std::span<const std::string_view> nouns();  // in alphabetical order
std::span<const std::string_view> first_names();
std::span<const std::string_view> last_names();
std::span<const std::string_view> cities();
std::span<const std::string_view> jobs();

/// The words with small letters for capitals.
std::string lower(std::string_view text);

/// "raven office", `n` nouns.
std::string some_nouns(Random& random, int n);

/// "2025-06-07".
std::string some_date(Random& random);

/// "Oscar Hall".
std::string some_person(Random& random);

/// "oscar.hall17@example.org", of "Oscar Hall".
std::string email_of(Random& random, std::string_view person);

}  // namespace optiq::eval
