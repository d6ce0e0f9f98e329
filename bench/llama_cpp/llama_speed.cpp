// llama.cpp's prefill and decode speed on a model file, as one line of JSON.
//
//   llama_speed MODEL.gguf PROMPT DECODE THREADS
//
// Built and run by scripts/nightly/compare-llama-cpp. As its own llama-bench does, the
// context is cleared before each measurement and one short run warms it up.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "llama.h"

namespace {

double seconds() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "llama_speed: error: %s\n", what);
  std::exit(1);
}

void decode(llama_context* context, std::vector<llama_token>& tokens) {
  const auto n = static_cast<std::int32_t>(tokens.size());
  if (llama_decode(context, llama_batch_get_one(tokens.data(), n)) != 0)
    fail("llama_decode did not work");
  llama_synchronize(context);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) fail("usage: llama_speed MODEL.gguf PROMPT DECODE THREADS");
  const int prompt = std::atoi(argv[2]);
  const int n_decode = std::atoi(argv[3]);
  const int threads = std::atoi(argv[4]);
  if (prompt < 1 || n_decode < 1 || threads < 1) fail("counts start at 1");

  llama_log_set(
      [](ggml_log_level level, const char* text, void*) {
        if (level >= GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
      },
      nullptr);
  llama_backend_init();
  llama_model* model =
      llama_model_load_from_file(argv[1], llama_model_default_params());
  if (model == nullptr) fail("the model cannot be loaded");

  llama_context_params params = llama_context_default_params();
  params.n_ctx = static_cast<std::uint32_t>(prompt + n_decode + 64);
  params.n_batch = params.n_ubatch = 512;
  params.n_threads = params.n_threads_batch = threads;
  llama_context* context = llama_init_from_model(model, params);
  if (context == nullptr) fail("the context cannot be made");

  const int vocab_size = llama_vocab_n_tokens(llama_model_get_vocab(model));
  std::mt19937 random(1);
  std::uniform_int_distribution<llama_token> any(0, vocab_size - 1);
  const auto tokens = [&](int n) {
    std::vector<llama_token> drawn(static_cast<std::size_t>(n));
    for (llama_token& token : drawn) token = any(random);
    return drawn;
  };
  const auto restart = [&] { llama_memory_clear(llama_get_memory(context), true); };
  const auto prefill = [&](int n) {
    for (int done = 0; done < n; done += 512) {
      auto batch = tokens(n - done < 512 ? n - done : 512);
      decode(context, batch);
    }
  };
  const auto decode_one_by_one = [&](int n) {
    for (int i = 0; i < n; ++i) {
      auto batch = tokens(1);
      decode(context, batch);
    }
  };

  prefill(32);
  decode_one_by_one(4);
  restart();
  double start = seconds();
  prefill(prompt);
  const double prefill_seconds = seconds() - start;
  restart();
  start = seconds();
  decode_one_by_one(n_decode);
  const double decode_seconds = seconds() - start;

  std::printf("{\"prefill_tps\": %.3f, \"decode_tps\": %.3f, \"model_bytes\": %llu}\n",
              prompt / prefill_seconds, n_decode / decode_seconds,
              static_cast<unsigned long long>(llama_model_size(model)));
  llama_free(context);
  llama_model_free(model);
  llama_backend_free();
}
