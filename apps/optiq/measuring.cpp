#include "measuring.h"

#include <memory>

#include "optiq/base/progress.h"

namespace optiq::app {

void add_calibration_option(CLI::App& app, std::string& calibration) {
  app.add_option("--calibration,--calibration-mix", calibration,
                 "builtin, or a JSONL file of {text} or {messages, tools}")
      ->capture_default_str()
      ->type_name("builtin|FILE.jsonl");
}

std::function<void(std::string_view, std::int64_t, std::int64_t)> progress_by_stage() {
  struct Shown {
    std::string stage;
    std::unique_ptr<Progress> progress;
  };
  return [shown = std::make_shared<Shown>()](std::string_view stage, std::int64_t done,
                                             std::int64_t total) {
    if (stage != shown->stage) {
      shown->stage = stage;
      shown->progress.reset();  // ends its line before the next begins
      shown->progress = std::make_unique<Progress>(shown->stage, total, "steps");
    }
    shown->progress->set(done);
  };
}

}  // namespace optiq::app
