// Flags that take whole numbers with commas between them.
#pragma once
#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace optiq::app {

/// Adds a flag that sets `to`. Each of its parts is a number from `low` to `high`: an
/// empty one, as before or behind a comma too many, is refused.
CLI::Option* add_number_list(CLI::App& app, const std::string& flag,
                             std::vector<int>& to, const std::string& description,
                             int low, int high);

}  // namespace optiq::app
