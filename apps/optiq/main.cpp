// The program `optiq`: finds the command, runs it, and turns every failure into one
// line and an exit status (0 done, 1 failed, 2 wrong usage, 130 interrupted).
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include "command.h"
#include "common_options.h"
#include "mlx_library.h"
#include "optiq/base/error.h"
#include "optiq/base/log.h"
#include "optiq/base/signal.h"

namespace optiq::app {
namespace {

constexpr int kFailed = 1;
constexpr int kWrongUsage = 2;

struct Registered {
  CLI::App* app;
  CommonOptions options;
  Run run;
};

// The command that was named, as far as it was.
const CLI::App& used_app(const CLI::App& app) {
  const CLI::App* used = &app;
  while (!used->get_subcommands().empty()) used = used->get_subcommands().back();
  return *used;
}

// What CLI11 says, as one line that begins with the flag.
std::string usage_message(const CLI::App& app, const CLI::ParseError& error) {
  const CLI::App& used = used_app(app);
  if (dynamic_cast<const CLI::ExtrasError*>(&error)) {
    const auto rest = used.remaining(true);
    const std::string first = rest.empty() ? "" : rest.front();
    return fmt::format("unknown {} '{}'",
                       !first.empty() && first.front() == '-' ? "flag" : "argument",
                       first);
  }
  std::string text = error.what();
  const bool wants_command =
      !used.get_subcommands([](const auto*) { return true; }).empty();
  if (const auto rest = used.remaining(); wants_command && !rest.empty())
    return fmt::format("unknown {} '{}'", rest[0][0] == '-' ? "flag" : "command",
                       rest[0]);
  if (dynamic_cast<const CLI::RequiredError*>(&error) && wants_command)
    text = "a command is required";
  return text.substr(0, text.find('\n'));
}

std::string help_hint(const CLI::App& app) {
  std::string name;
  for (const CLI::App* used = &app; !used->get_subcommands().empty();) {
    used = used->get_subcommands().back();
    name += used->get_name() + " ";
  }
  return fmt::format("see 'optiq {}--help'", name);
}

int fail(int status, std::string_view message) {
  log(LogLevel::kError, message);
  return status;
}

// MLX throws std::runtime_error for memory too.
bool is_out_of_memory(const std::string& message) {
  return message.find("Unable to allocate") != std::string::npos ||
         message.find("out of memory") != std::string::npos;
}

int run(const CLI::App& app, Registered& command) {
  try {
    apply_log_options(command.options);
    apply_device_options(command.options);
    Output out(command.options.json);
    Context context{out, command.options.seed};
    command.run(context);
    return 0;
  } catch (const Interrupted&) {
    log(LogLevel::kWarning, "interrupted");
    return kInterruptedExitCode;
  } catch (const UsageError& error) {
    return fail(kWrongUsage, fmt::format("{}; {}", error.what(), help_hint(app)));
  } catch (const std::invalid_argument& error) {
    return fail(kWrongUsage, error.what());
  } catch (const std::bad_alloc&) {
    return fail(kFailed,
                "out of memory: use a smaller model or context, fewer bits, or "
                "a machine with more memory");
  } catch (const std::exception& error) {
    const std::string message = error.what();
    return fail(kFailed,
                is_out_of_memory(message) ? "out of memory: " + message : message);
  }
}

// A standard stream that the caller has closed leaves its number to the next file that
// is opened, which would then be read as stdin or written to by the log. Here it fails
// instead.
void hold_standard_streams() {
  for (int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    if (::fcntl(fd, F_GETFD) < 0 && errno == EBADF)
      (void)::open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
}

// The place of a command: `lora train` is one of the group `lora`.
CLI::App* add_command(CLI::App& app, const Command& command) {
  std::string name = command.name;
  CLI::App* parent = &app;
  if (const std::size_t space = name.find(' '); space != std::string::npos) {
    const std::string group = name.substr(0, space);
    name = name.substr(space + 1);
    const auto same = app.get_subcommands(
        [&](const CLI::App* one) { return one->get_name() == group; });
    if (!same.empty()) {
      parent = same.front();
    } else {
      parent = app.add_subcommand(group, group_description(group));
      parent->require_subcommand(1);
    }
  }
  return parent->add_subcommand(name, command.description);
}

int main_of(int argc, char** argv) {
  hold_standard_streams();
  install_interrupt_handler();
  CLI::App app(
      "optiq puts a language model on the machine you own: it measures which layers\n"
      "need their bits, quantizes the rest, and runs the result.");
  app.name("optiq");
  app.set_version_flag("--version", "optiq " OPTIQ_VERSION);
  app.require_subcommand(1);
  app.failure_message([](const CLI::App*, const CLI::Error&) { return std::string(); });
  std::vector<Registered> registered(commands().size());
  for (std::size_t i = 0; i < registered.size(); ++i) {
    const Command& command = commands()[i];
    Registered& r = registered[i];
    r.app = add_command(app, command);
    r.run = command.add(*r.app);
    add_common_options(*r.app, r.options);
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {  // --help, --version
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    return fail(kWrongUsage,
                fmt::format("{}; {}", usage_message(app, error), help_hint(app)));
  }
  for (Registered& r : registered)
    if (r.app->parsed()) return run(app, r);
  return kWrongUsage;
}

}  // namespace
}  // namespace optiq::app

int main(int argc, char** argv) {
#ifdef OPTIQ_CUDA_LIBRARIES
  optiq::app::choose_mlx_library(argv);
#endif
  const int status = optiq::app::main_of(argc, argv);
  if (std::fflush(stdout) != 0 && status == 0) {
    optiq::log(optiq::LogLevel::kError, "stdout: cannot write");
    return 1;
  }
  return status;
}
