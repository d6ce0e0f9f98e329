#include "command.h"

namespace optiq::app {
namespace {

constexpr Command kCommands[] = {
    {"info", "Show the build, devices, instruction set and threads in use", add_info},
};

}  // namespace

std::span<const Command> commands() { return kCommands; }

}  // namespace optiq::app
