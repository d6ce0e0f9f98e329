// What every command is given, and the list of commands.
#pragma once
#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <span>
#include <stdexcept>
#include <string>

#include "output.h"

namespace optiq::app {

/// Wrong usage that only shows after parsing: exit 2 and a hint to --help.
class UsageError : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

/// What the common flags say; devices and threads are already set.
struct Context {
  Output& out;
  std::uint64_t seed = 0;
};

using Run = std::function<void(Context&)>;

/// One command: its name (two words in a group), what it does, and a function that adds
/// its flags and returns what runs it.
struct Command {
  const char* name;
  const char* description;
  Run (*add)(CLI::App& app);
};

std::span<const Command> commands();

/// What the commands of a group do, those whose names begin with this word.
const char* group_description(const std::string& group);

/// For option->check(): a number from `low` to `high`. CLI::Range takes nan for one.
CLI::Validator number_in(double low, double high);

Run add_benchmark(CLI::App& app);
Run add_chat(CLI::App& app);
Run add_convert(CLI::App& app);
Run add_eval(CLI::App& app);
Run add_generate(CLI::App& app);
Run add_info(CLI::App& app);
Run add_inspect(CLI::App& app);
Run add_kv_cache(CLI::App& app);
Run add_logits(CLI::App& app);
Run add_lora_export(CLI::App& app);
Run add_lora_info(CLI::App& app);
Run add_lora_merge(CLI::App& app);
Run add_lora_train(CLI::App& app);
Run add_pull(CLI::App& app);
Run add_serve(CLI::App& app);

}  // namespace optiq::app
