// What the commands that measure a model before they choose bits have in common.
#pragma once
#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace optiq::app {

/// Adds --calibration and its older name.
void add_calibration_option(CLI::App& app, std::string& calibration);

/// Shows each stage as a line of progress, the last one until this is destroyed.
std::function<void(std::string_view stage, std::int64_t done, std::int64_t total)>
progress_by_stage();

}  // namespace optiq::app
