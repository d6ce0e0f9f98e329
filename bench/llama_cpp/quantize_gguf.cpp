// Writes Q4_K_M with an importance matrix by libllama.
//
//   quantize_gguf IN.gguf OUT.gguf IMPORTANCE
//
// IMPORTANCE: a line for each matrix, its name in the file, its columns, and the mean
// square of each column's inputs. Built and run by scripts/nightly/pareto.
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <list>
#include <string>
#include <vector>

#include "llama.h"

namespace {

struct Importance {
  std::string name;
  std::vector<float> values;
};

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "quantize_gguf: error: %s\n", what);
  std::exit(1);
}

std::list<Importance> read(const char* file) {
  std::ifstream stream(file);
  if (!stream) fail("the importance matrix cannot be read");
  std::list<Importance> all;
  std::string name;
  for (std::size_t n; stream >> name >> n;) {
    Importance& one = all.emplace_back(Importance{name, std::vector<float>(n)});
    for (float& value : one.values)
      if (!(stream >> value)) fail("the importance matrix is cut off");
  }
  return all;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) fail("usage: quantize_gguf IN.gguf OUT.gguf IMPORTANCE");
  const auto importance = read(argv[3]);
  std::vector<llama_model_imatrix_data> rows;
  for (const Importance& one : importance)
    rows.push_back({one.name.c_str(), one.values.data(), one.values.size()});
  rows.push_back({nullptr, nullptr, 0});
  llama_backend_init();
  llama_model_quantize_params params = llama_model_quantize_default_params();
  params.ftype = LLAMA_FTYPE_MOSTLY_Q4_K_M;
  params.imatrix = rows.data();
  if (llama_model_quantize(argv[1], argv[2], &params) != 0)
    fail("llama_model_quantize did not work");
  llama_backend_free();
}
