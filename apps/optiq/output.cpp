#include "output.h"

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "optiq/base/error.h"
#include "optiq/base/file.h"

namespace optiq::app {
namespace {

void write_stdout(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() ||
      std::fflush(stdout) != 0)
    throw ResourceError(fmt::format("stdout: cannot write: {}", std::strerror(errno)));
}

}  // namespace

Output::Output(std::string json_target) : json_target_(std::move(json_target)) {
  if (!json_target_.empty() && json_target_ != "-") check_writable(json_target_);
}

void Output::write(std::string_view text) {
  if (json_target_ != "-") write_stdout(text);
}

void Output::summary(const nlohmann::ordered_json& summary) {
  if (json_target_.empty()) return;
  // Text of a model may end inside a character; JSON may not.
  const std::string text =
      summary.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  if (json_target_ == "-")
    write_stdout(text);
  else
    write_file_atomic(json_target_, text);
}

}  // namespace optiq::app
