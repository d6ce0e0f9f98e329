// Serves a model from within a program: serve MODEL, until its input ends.
#include <exception>
#include <iostream>
#include <string>

#include "optiq/server/serve_model.h"
#include "optiq/server/server.h"

int main(int argc, char** argv) try {
  if (argc != 2) {
    std::cerr << "usage: serve MODEL\n";
    return 2;
  }
  optiq::server::ModelOptions model;
  model.model = argv[1];
  optiq::server::Opened opened = optiq::server::open_model(model);

  optiq::server::ServerOptions options;
  options.http.port = 0;  // any free one
  options.aliases = {{"*", opened.model.id}};
  optiq::server::Server server(std::move(opened.model), options);
  server.start();
  std::cerr << "http://127.0.0.1:" << server.port() << '\n';

  // The server has threads of its own: this one is the program's.
  for (std::string line; std::getline(std::cin, line);) {
  }
  server.drain(std::chrono::seconds(10));
} catch (const std::exception& error) {
  std::cerr << "serve: error: " << error.what() << '\n';
  return 1;
}
