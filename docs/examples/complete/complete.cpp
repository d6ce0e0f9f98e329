// Continues a text: complete MODEL TEXT
#include <exception>
#include <iostream>

#include "optiq/generate/generate.h"

int main(int argc, char** argv) try {
  if (argc != 3) {
    std::cerr << "usage: complete MODEL TEXT\n";
    return 2;
  }
  optiq::LoadedModel model = optiq::load(argv[1]);
  optiq::Request request;
  request.prompt = optiq::encode_raw(model, argv[2]);
  request.max_tokens = 32;
  optiq::generate(model, request, [](const optiq::GeneratedToken& token) {
    std::cout << token.text << std::flush;
    return true;
  });
  std::cout << '\n';
} catch (const std::exception& error) {
  std::cerr << "complete: error: " << error.what() << '\n';
  return 1;
}
