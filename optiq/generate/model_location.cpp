#include "optiq/generate/model_location.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <memory>

#include "optiq/base/error.h"
#include "optiq/base/progress.h"
#include "optiq/base/signal.h"

namespace optiq {
namespace {

namespace fs = std::filesystem;

// The library or program that this code is in: <prefix>/lib/x or <prefix>/bin/x.
fs::path own_prefix() {
  Dl_info info{};
  std::error_code ignored;
  if (::dladdr(reinterpret_cast<const void*>(&find_model), &info) != 0 &&
      info.dli_fname) {
    const fs::path file = fs::canonical(info.dli_fname, ignored);
    if (!ignored) return file.parent_path().parent_path();
  }
  // A program that was found along PATH is not named by its whole path above.
  const fs::path program = fs::read_symlink("/proc/self/exe", ignored);
  return program.parent_path().parent_path();
}

fs::path demo_model() {
  const fs::path places[] = {own_prefix() / "share/optiq/models/demo",
                             OPTIQ_SOURCE_MODELS_DIR "/demo"};
  for (const fs::path& place : places)
    if (fs::exists(place / "config.json")) return place;
  throw ResourceError(fmt::format(
      "demo: expected the model that comes with optiq in {}, found nothing there",
      places[0].string()));
}

}  // namespace

fs::path find_model(const std::string& model) {
  if (model == "demo") return demo_model();
  std::error_code ignored;
  if (fs::is_directory(model, ignored)) return model;
  return checkpoint::resolve_model(model, hub_options_with_progress());
}

fs::path find_adapter(const std::string& adapter) {
  std::error_code ignored;
  if (fs::is_directory(adapter, ignored)) return adapter;
  return checkpoint::resolve_model(adapter, hub_options_with_progress());
}

checkpoint::HubOptions hub_options_with_progress() {
  auto options = checkpoint::hub_options_from_environment();
  // Begins when there is something to download, ends with the last copy of the options.
  const auto progress = std::make_shared<std::unique_ptr<Progress>>();
  options.on_progress = [progress](const checkpoint::HubProgress& p) {
    if (!*progress)
      *progress = std::make_unique<Progress>(
          "downloading", static_cast<std::int64_t>(p.total_bytes), "B");
    (*progress)->describe(p.file);
    (*progress)->set(static_cast<std::int64_t>(p.done_bytes));
  };
  options.is_cancelled = [] { return interrupted(); };
  return options;
}

}  // namespace optiq
