// JSON from a file, with errors that name the file.
#pragma once
#include <cstddef>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string_view>

namespace optiq::checkpoint {

/// Parses JSON that must be an object; nesting is limited and keys are unique.
///
/// Throws    CheckpointError naming `file`.
nlohmann::json parse_json_object(std::string_view text,
                                 const std::filesystem::path& file);

/// The same for JSON that must be a list.
nlohmann::json parse_json_list(std::string_view text,
                               const std::filesystem::path& file);

/// Reads and parses such a file.
nlohmann::json read_json_object(const std::filesystem::path& file,
                                std::size_t limit_bytes = std::size_t{64} << 20);

}  // namespace optiq::checkpoint
