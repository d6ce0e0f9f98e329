#include "benchmark_run.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <random>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/base/signal.h"
#include "optiq/cache/sequence_state.h"
#include "optiq/generate/decode_step.h"
#include "optiq/generate/forward.h"
#include "optiq/kernels/kv_page/kv_page.h"

namespace optiq::app {
namespace {

namespace mx = mlx::core;
using Clock = std::chrono::steady_clock;

class Sequences {
 public:
  Sequences(models::Model& model, const BenchmarkShape& shape,
            const BenchmarkOptions& options)
      : model_(model),
        options_(options),
        random_(options.seed),
        step_(model, options.activation) {
    const auto cache =
        std::make_shared<cache::KvCache>(model.layer_shapes(), options.cache);
    for (int i = 0; i < shape.batch; ++i)
      states_.push_back(std::make_unique<cache::SequenceState>(cache));
    if (shape.depth > 0) fill(shape.depth);
  }

  // `tokens` random tokens of each sequence, in calls as when generating.
  void feed(int tokens) {
    const int batch = static_cast<int>(states_.size());
    const int step = std::max(1, generation::rows_of_prefill() / batch);
    for (int done = 0; done < tokens; done += step)
      forward(std::min(step, tokens - done));
  }

  // One token of each sequence a call.
  void decode(int tokens) {
    const std::vector<cache::SequenceState*> states = pointers();
    for (int i = 0; i < tokens; ++i) {
      throw_if_interrupted();
      step_(states, std::vector<int>(states.size(), 1), random_ids(states.size()));
    }
  }

  // Forgets the last tokens of attention. Recurrent states stay as they are: their cost
  // does not depend on what they hold.
  void rewind(int tokens) {
    for (auto& state : states_) state->advance(-tokens);
  }

 private:
  std::vector<cache::SequenceState*> pointers() const {
    std::vector<cache::SequenceState*> states;
    for (auto& state : states_) states.push_back(state.get());
    return states;
  }

  std::vector<int> random_ids(std::size_t n) {
    std::uniform_int_distribution<int> id(0, model_.config().vocab_size - 1);
    std::vector<int> ids(n);
    std::ranges::generate(ids, [&] { return id(random_); });
    return ids;
  }

  void forward(int tokens) {
    throw_if_interrupted();
    const std::vector<cache::SequenceState*> states = pointers();
    const int batch = static_cast<int>(states.size());
    const std::vector<int> ids = random_ids(static_cast<std::size_t>(batch * tokens));
    const auto call = models::cached_batch(
        states, std::vector<int>(states.size(), tokens), options_.activation);
    std::vector<mx::array> outputs;
    {
      const mx::array hidden = generation::forward_layers(
          model_, mx::array(ids.data(), {batch * tokens}, mx::int32), call);
      // Logits of the last token of each sequence.
      std::vector<mx::array> last;
      for (int i = 1; i <= batch; ++i)
        last.push_back(
            mx::slice(hidden, {i * tokens - 1, 0}, {i * tokens, hidden.shape(1)}));
      outputs.push_back(
          model_.head(batch == 1 ? last[0] : mx::concatenate(std::move(last), 0),
                      options_.activation));
    }
    for (auto& state : states_)
      for (mx::array& array : state->arrays()) outputs.push_back(std::move(array));
    mx::eval(std::move(outputs));
    models::finish_batch(call);
  }

  // Random keys and values: one page of each kind is coded, and the others are copies
  // of it in memory of their own.
  void fill(int depth) {
    for (auto& state : states_) {
      state->prepare(depth);
      const cache::KvCache& cache = state->cache();
      for (const int page : {0, cache.float_pages()})
        if (page * kPageTokens < depth) code_page(*state, page);
      const kernels::PagedKv all = state->pages(first_attention_layer(cache));
      for (int page = 1; page < all.pages.n_pages; ++page) {
        const bool coded = page >= cache.float_pages();
        const int from = coded ? cache.float_pages() : 0;
        if (page != from)
          std::memcpy(all.pages.pages[page], all.pages.pages[from],
                      cache.store().page_bytes(coded ? 1 : 0));
      }
      state->advance(depth);
    }
  }

  static int first_attention_layer(const cache::KvCache& cache) {
    int layer = 0;
    while (cache.layer(layer) == nullptr) ++layer;
    return layer;
  }

  void code_page(cache::SequenceState& state, int page) {
    std::normal_distribution<float> normal;
    const auto& shapes = model_.layer_shapes();
    for (std::size_t i = 0; i < shapes.size(); ++i) {
      const auto [n_kv_heads, head_dim] =
          std::pair(shapes[i].n_kv_heads, shapes[i].head_dim);
      if (n_kv_heads == 0) continue;
      const std::int64_t row = std::int64_t{n_kv_heads} * head_dim;
      std::vector<float> k(static_cast<std::size_t>(kPageTokens * row)), v(k.size());
      for (auto* values : {&k, &v})
        std::ranges::generate(*values, [&] { return normal(random_); });
      kernels::append_to_pages({k.data(), row, head_dim, v.data(), row, head_dim,
                                page * kPageTokens, kPageTokens},
                               state.pages(static_cast<int>(i)).pages);
    }
  }

  models::Model& model_;
  BenchmarkOptions options_;
  std::mt19937_64 random_;
  std::vector<std::unique_ptr<cache::SequenceState>> states_;
  generation::DecodeStep step_;
};

// The median of options.repeat timed calls after one that warms up.
template <class Run>
double median_rate(int tokens, int repeat, Run&& run) {
  std::vector<double> rates;
  run();
  for (int i = 0; i < repeat; ++i) {
    const std::chrono::duration<double> seconds = run();
    rates.push_back(tokens / seconds.count());
  }
  const auto middle = rates.begin() + static_cast<std::ptrdiff_t>(rates.size() / 2);
  std::nth_element(rates.begin(), middle, rates.end());
  return *middle;
}

}  // namespace

double prefill_rate(models::Model& model, const BenchmarkShape& shape,
                    const BenchmarkOptions& options) {
  return median_rate(shape.batch * shape.tokens, options.repeat, [&] {
    Sequences sequences(model, shape, options);
    const auto start = Clock::now();
    sequences.feed(shape.tokens);
    return Clock::now() - start;
  });
}

double decode_rate(models::Model& model, const BenchmarkShape& shape,
                   const BenchmarkOptions& options) {
  Sequences sequences(model, shape, options);
  return median_rate(shape.batch * shape.tokens, options.repeat, [&] {
    const auto start = Clock::now();
    sequences.decode(shape.tokens);
    const auto time = Clock::now() - start;
    sequences.rewind(shape.tokens);
    return time;
  });
}

std::int64_t bytes_of(const kernels::LinearWeight& w) {
  auto bytes = static_cast<std::int64_t>(w.weight.nbytes());
  for (const auto& part : {w.scales, w.biases})
    if (part) bytes += static_cast<std::int64_t>(part->nbytes());
  return bytes;
}

std::int64_t step_bytes(models::Model& model) {
  std::int64_t bytes = model.weight_bytes();
  for (const models::LinearModule* module : model.linears()) {
    // Of a table that is not the head too, a step reads one row; of experts, a token
    // visits some.
    const bool is_table = module->layer == models::LinearModule::kEmbedding &&
                          module->name.starts_with("embed_tokens");
    if (is_table && module != &model.output()) {
      bytes -= bytes_of(module->weight);
    } else if (module->n_experts > 1) {
      const std::int64_t one = bytes_of(module->weight) / module->n_experts;
      bytes -= one * (module->n_experts - model.config().experts.n_active);
    }
  }
  return bytes;
}

std::int64_t step_bytes(models::Model& model, const BenchmarkShape& shape,
                        const cache::KvCache& cache) {
  // On average half of what is decoded lies behind the depth.
  return step_bytes(model) +
         shape.batch *
             (cache.bytes(shape.depth + shape.tokens / 2) + cache.recurrent_bytes());
}

}  // namespace optiq::app
