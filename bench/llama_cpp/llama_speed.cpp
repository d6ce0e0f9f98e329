// llama.cpp's prefill and decode speed on a model file, as one line of JSON.
//
//   llama_speed MODEL.gguf PROMPT DECODE THREADS [KV [DEPTH,... [SEQUENCES]]]
//
// KV: f16 (default), q8_0 or q4_0, always with flash attention. SEQUENCES at a time are
// decoded from depth 0 on, where that is more than one, and then nothing else. A depth
// is reached by handing back the saved state of 512 tokens, repeated: reading a long
// prompt would take an hour. Built and run by scripts/nightly/compare-llama-cpp. As its
// own llama-bench does, one short run warms it up.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "llama.h"

namespace {

constexpr int kBatch = 512;

double seconds() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "llama_speed: error: %s\n", what);
  std::exit(1);
}

ggml_type cache_type(const std::string& name) {
  if (name == "f16") return GGML_TYPE_F16;
  if (name == "q8_0") return GGML_TYPE_Q8_0;
  if (name == "q4_0") return GGML_TYPE_Q4_0;
  fail("KV is f16, q8_0 or q4_0");
}

std::vector<int> numbers(const char* list) {
  std::vector<int> all;
  std::stringstream stream(list);
  for (std::string part; std::getline(stream, part, ',');)
    all.push_back(std::atoi(part.c_str()));
  return all;
}

// A sequence's saved state: two words, the number of streams and of cells; 12 bytes a
// cell (position, count of sequences, sequence); whether values are transposed, the
// number of layers; for keys and then values of each layer their type, the bytes of a
// row, and the rows. From llama-kv-cache.cpp of the pinned version.
class SavedState {
 public:
  explicit SavedState(llama_context* context)
      : bytes_(llama_state_seq_get_size(context, 0)) {
    llama_state_seq_get_data(context, bytes_.data(), bytes_.size(), 0);
  }

  // The state of a sequence of `depth` tokens whose rows repeat these.
  std::vector<std::uint8_t> repeated(int depth) {
    std::vector<std::uint8_t> out;
    const auto copy = [&](std::size_t n) {
      out.insert(out.end(), bytes_.begin() + at_, bytes_.begin() + at_ + n);
      at_ += n;
    };
    const auto write = [&](std::int32_t value) {
      const auto* p = reinterpret_cast<const std::uint8_t*>(&value);
      out.insert(out.end(), p, p + sizeof value);
    };
    copy(3 * sizeof(std::uint32_t));
    const auto cells = read<std::uint32_t>();
    write(depth);
    at_ += std::size_t{12} * cells;
    for (int position = 0; position < depth; ++position) {
      write(position);
      write(1);
      write(0);
    }
    if (read<std::uint32_t>() != 0) fail("values of the cache are transposed");
    write(0);
    const auto layers = read<std::uint32_t>();
    write(static_cast<std::int32_t>(layers));
    for (std::uint32_t i = 0; i < 2 * layers; ++i) {
      copy(sizeof(std::int32_t));
      std::uint64_t row_bytes;
      std::memcpy(&row_bytes, &bytes_[at_], sizeof row_bytes);
      copy(sizeof row_bytes);
      const auto rows = bytes_.begin() + static_cast<std::ptrdiff_t>(at_);
      for (int done = 0; done < depth; done += static_cast<int>(cells)) {
        const int n = std::min(static_cast<int>(cells), depth - done);
        out.insert(out.end(), rows, rows + static_cast<std::ptrdiff_t>(row_bytes) * n);
      }
      at_ += row_bytes * cells;
    }
    if (at_ != bytes_.size()) fail("the saved state has another form");
    return out;
  }

 private:
  template <class T>
  T read() {
    T value;
    std::memcpy(&value, &bytes_[at_], sizeof value);
    at_ += sizeof value;
    return value;
  }

  std::vector<std::uint8_t> bytes_;
  std::size_t at_ = 0;
};

void decode(llama_context* context, std::vector<llama_token>& tokens) {
  const auto n = static_cast<std::int32_t>(tokens.size());
  if (llama_decode(context, llama_batch_get_one(tokens.data(), n)) != 0)
    fail("llama_decode did not work");
  llama_synchronize(context);
}

// Tokens a second of `n` sequences that grow by a token a step.
double batched_rate(llama_context* context, int n, int steps, auto& draw) {
  llama_batch batch = llama_batch_init(n, 0, 1);
  batch.n_tokens = n;
  const auto step = [&](int position) {
    for (int i = 0; i < n; ++i) {
      batch.token[i] = draw();
      batch.pos[i] = position;
      batch.n_seq_id[i] = 1;
      batch.seq_id[i][0] = i;
      batch.logits[i] = 1;
    }
    if (llama_decode(context, batch) != 0) fail("llama_decode did not work");
    llama_synchronize(context);
  };
  constexpr int kWarm = 4;
  for (int i = 0; i < kWarm; ++i) step(i);
  const double start = seconds();
  for (int i = 0; i < steps; ++i) step(kWarm + i);
  const double rate = n * steps / (seconds() - start);
  llama_batch_free(batch);
  return rate;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5 || argc > 8)
    fail(
        "usage: llama_speed MODEL.gguf PROMPT DECODE THREADS [KV [DEPTH,... "
        "[SEQUENCES]]]");
  const int prompt = std::atoi(argv[2]);
  const int n_decode = std::atoi(argv[3]);
  const int threads = std::atoi(argv[4]);
  if (prompt < 1 || n_decode < 1 || threads < 1) fail("counts start at 1");
  const ggml_type type = cache_type(argc > 5 ? argv[5] : "f16");
  const std::vector<int> depths = numbers(argc > 6 ? argv[6] : "0");
  const int sequences = argc > 7 ? std::atoi(argv[7]) : 1;
  if (sequences < 1) fail("counts start at 1");
  const int deepest = *std::max_element(depths.begin(), depths.end());

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
  params.n_ctx =
      static_cast<std::uint32_t>(std::max({prompt, kBatch, deepest}) + n_decode + 64);
  if (sequences > 1) {
    params.n_ctx = static_cast<std::uint32_t>(sequences * (n_decode + 64));
    params.n_seq_max = static_cast<std::uint32_t>(sequences);
  }
  params.n_batch = params.n_ubatch = kBatch;
  params.n_threads = params.n_threads_batch = threads;
  params.type_k = params.type_v = type;
  params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
  llama_context* context = llama_init_from_model(model, params);
  if (context == nullptr) fail("the context cannot be made");
  llama_memory_t memory = llama_get_memory(context);

  const int vocab_size = llama_vocab_n_tokens(llama_model_get_vocab(model));
  std::mt19937 random(1);
  std::uniform_int_distribution<llama_token> any(0, vocab_size - 1);
  const auto draw = [&] { return any(random); };
  const auto tokens = [&](int n) {
    std::vector<llama_token> drawn(static_cast<std::size_t>(n));
    for (llama_token& token : drawn) token = draw();
    return drawn;
  };
  const auto restart = [&] { llama_memory_clear(memory, true); };
  const auto prefill = [&](int n) {
    for (int done = 0; done < n; done += kBatch) {
      auto batch = tokens(std::min(n - done, kBatch));
      decode(context, batch);
    }
  };
  const auto decode_one_by_one = [&](int n) {
    for (int i = 0; i < n; ++i) {
      auto batch = tokens(1);
      decode(context, batch);
    }
  };
  const auto fill = [&](int depth) {
    restart();
    if (depth == 0) return;
    prefill(std::min(depth, kBatch));
    if (depth <= kBatch) return;
    const auto state = SavedState(context).repeated(depth);
    restart();
    if (llama_state_seq_set_data(context, state.data(), state.size(), 0) !=
        state.size())
      fail("the repeated state was not taken");
  };

  if (sequences > 1) {
    std::printf("{\"sequences\": %d, \"tps\": %.3f}\n", sequences,
                batched_rate(context, sequences, n_decode, draw));
  } else {
    prefill(32);
    decode_one_by_one(4);
    restart();
    double start = seconds();
    prefill(prompt);
    const double prefill_seconds = seconds() - start;
    std::string decoded;
    for (const int depth : depths) {
      fill(depth);
      decode_one_by_one(1);
      start = seconds();
      decode_one_by_one(n_decode);
      const double rate = n_decode / (seconds() - start);
      char row[64];
      std::snprintf(row, sizeof row, "%s{\"depth\": %d, \"tps\": %.3f}",
                    decoded.empty() ? "" : ", ", depth, rate);
      decoded += row;
    }
    std::printf("{\"prefill_tps\": %.3f, \"decode\": [%s], \"model_bytes\": %llu}\n",
                prompt / prefill_seconds, decoded.c_str(),
                static_cast<unsigned long long>(llama_model_size(model)));
  }
  llama_free(context);
  llama_model_free(model);
  llama_backend_free();
}
