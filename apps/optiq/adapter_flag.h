// --adapter, of the commands that run a model.
#pragma once
#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <vector>

#include "optiq/adapters/mount.h"
#include "optiq/generate/loaded_model.h"

namespace optiq::app {

/// Directories or hub ids of LoRA adapters; several act together.
using AdapterFlag = std::vector<std::string>;

void add_adapter_flag(CLI::App& app, AdapterFlag& adapters);

/// Mounts them on the model; while the result lives, this thread's sessions answer with
/// them. Null where there is none.
///
/// Throws    as adapters::load_adapter
std::unique_ptr<adapters::AdapterActivation> activate(const AdapterFlag& adapters,
                                                      LoadedModel& model);

}  // namespace optiq::app
