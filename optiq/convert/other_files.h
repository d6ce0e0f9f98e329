// What a model's directory holds besides weights.
#pragma once
#include <filesystem>

namespace optiq::convert {

/// Copies what is neither weights nor written anew: tokenizer, template, licence.
///
/// Throws    std::filesystem::filesystem_error
void copy_other_files(const std::filesystem::path& from,
                      const std::filesystem::path& to);

}  // namespace optiq::convert
