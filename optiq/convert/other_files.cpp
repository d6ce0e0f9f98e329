#include "optiq/convert/other_files.h"

namespace optiq::convert {

namespace fs = std::filesystem;

void copy_other_files(const fs::path& from, const fs::path& to) {
  for (const auto& entry : fs::directory_iterator(from)) {
    const std::string name = entry.path().filename().string();
    const std::string extension = entry.path().extension().string();
    const bool wanted = extension == ".json" || extension == ".jinja" ||
                        extension == ".txt" || extension == ".model" ||
                        name.starts_with("LICENSE");
    if (!entry.is_regular_file() || !wanted || name == "config.json" ||
        name.ends_with(".safetensors.index.json") || name == "optiq_metadata.json")
      continue;
    fs::copy_file(entry.path(), to / name);
  }
}

}  // namespace optiq::convert
