#include <memory>

#include "command.h"
#include "optiq/base/format.h"
#include "optiq/generate/model_location.h"

namespace optiq::app {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string repository;
  std::string output;
  std::string revision = "main";
};

std::uint64_t directory_bytes(const fs::path& directory) {
  std::uint64_t bytes = 0;
  for (const auto& entry : fs::recursive_directory_iterator(directory))
    if (fs::is_regular_file(entry)) bytes += fs::file_size(entry);
  return bytes;
}

void pull(const Options& options, Context& context) {
  fs::path path = checkpoint::pull(options.repository, hub_options_with_progress(),
                                   options.revision);
  if (!options.output.empty()) {
    checkpoint::copy_snapshot(path, options.output);
    path = options.output;
  }
  const std::uint64_t bytes = directory_bytes(path);
  context.out.print("{}: {}\n", path.string(), format_bytes(bytes));
  context.out.summary({{"path", path.string()}, {"bytes", bytes}});
}

}  // namespace

Run add_pull(CLI::App& app) {
  auto options = std::make_shared<Options>();
  app.add_option("REPO", options->repository, "A hub id such as Qwen/Qwen3-0.6B")
      ->required()
      ->type_name("");
  app.add_option("-o,--output", options->output,
                 "Copy the model to a directory of its own")
      ->type_name("DIR");
  app.add_option("--revision", options->revision, "Branch, tag or commit")
      ->type_name("REV")
      ->capture_default_str();
  return [options](Context& context) { pull(*options, context); };
}

}  // namespace optiq::app
