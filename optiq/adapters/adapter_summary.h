// What an adapter's files say, without its model.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace optiq::adapters {

struct AdapterSummary {
  struct Module {
    std::string path;  // in the base model
    int rank;
    double alpha;  // scale x rank
  };
  std::vector<Module> modules;  // in the order of their layers
  int rank = 0;                 // that most have
  double alpha = 0;
  bool dora = false;
  std::string rank_scaling;  // "constant" where the files do not say
  std::string base_model;
  std::int64_t parameters = 0;
  std::uint64_t bytes = 0;
};

/// Throws    CheckpointError as open_adapter()
AdapterSummary summarize(const std::filesystem::path& directory);

}  // namespace optiq::adapters
