// A server whose answers stand in the prompts, for the tests of clients.
//
//   scripted_server [--port N] [--context-length N]
#include <cstdio>
#include <cstdlib>
#include <string>

#include "optiq/base/log.h"
#include "optiq/base/signal.h"
#include "optiq/server/server.h"
#include "optiq/server/testing/fixture.h"

int main(int argc, char** argv) {
  optiq::install_interrupt_handler();
  optiq::server::ServerOptions options;
  options.http.port = 0;
  options.keep_alive = std::chrono::milliseconds(1000);
  int context_length = 65536;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    if (flag == "--port") options.http.port = std::atoi(argv[i + 1]);
    if (flag == "--context-length") context_length = std::atoi(argv[i + 1]);
  }
  options.aliases = {{"claude-*", "demo"}, {"gpt-*", "demo"}};
  optiq::server::Server server(optiq::server::testing::scripted_model(context_length),
                               std::move(options));
  server.start();
  optiq::log_info("serving at http://127.0.0.1:{}", server.port());
  optiq::wait_for_interrupt();
  server.drain(std::chrono::seconds(5));
  server.stop();
}
