// What a user calls a model -> the directory that holds it.
#pragma once
#include <filesystem>
#include <string>

#include "optiq/checkpoint/hub.h"

namespace optiq {

/// The directory of a model: `demo` is the model that comes with optiq; a local
/// directory is itself; a hub id is looked up in the Hugging Face cache and, if it is
/// not there, downloaded with a progress bar.
///
/// Throws    std::invalid_argument if it is none of these; ResourceError (network);
///           Interrupted.
std::filesystem::path find_model(const std::string& model);

/// The directory of an adapter: a local one, or a hub id as for models.
///
/// Throws    as find_model()
std::filesystem::path find_adapter(const std::string& adapter);

/// What the environment asks of the hub, with a progress bar for what is downloaded,
/// ended by Ctrl-C.
checkpoint::HubOptions hub_options_with_progress();

}  // namespace optiq
