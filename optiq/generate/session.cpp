#include "optiq/generate/session.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <stdexcept>
#include <utility>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/adapters/mount.h"
#include "optiq/base/signal.h"
#include "optiq/generate/forward.h"

namespace optiq::generation {

SessionOptions exact_session(cache::CacheOptions cache) {
  cache.float_type = FloatType::kF32;
  return {.cache = std::move(cache), .activation = kernels::Activation::kExact};
}

Session::Session(models::Model& model, const SessionOptions& options)
    : model_(model),
      options_(options),
      state_(std::make_shared<cache::KvCache>(model.layer_shapes(), options.cache)),
      decode_step_(model, options.activation) {}

Session::Session(models::Model& model, SessionOptions options,
                 cache::SequenceState state, std::vector<int> tokens)
    : model_(model),
      options_(std::move(options)),
      state_(std::move(state)),
      tokens_(std::move(tokens)),
      decode_step_(model, options_.activation) {}

Session Session::fork() const { return {model_, options_, state_.fork(), tokens_}; }

void Session::truncate(int length) {
  state_.truncate(length);
  tokens_.resize(static_cast<std::size_t>(length));
}

void Session::check(std::span<const int> tokens) const {
  const auto& config = model_.config();
  if (tokens.empty())
    throw std::invalid_argument("expected at least one token, found none");
  for (std::size_t i = 0; i < tokens.size(); ++i)
    if (tokens[i] < 0 || tokens[i] >= config.vocab_size)
      throw std::invalid_argument(
          fmt::format("token {} of the input: expected an id from 0 to {}, found {}", i,
                      config.vocab_size - 1, tokens[i]));
  const std::size_t room =
      static_cast<std::size_t>(config.max_position_embeddings - state_.length());
  if (tokens.size() > room)
    throw std::invalid_argument(fmt::format(
        "the model takes at most {} tokens (max_position_embeddings), found {}",
        config.max_position_embeddings,
        static_cast<std::size_t>(state_.length()) + tokens.size()));
}

// A sequence that outgrows the rotary frequencies it began with is read again with
// those for long ones, as transformers does.
void Session::fit_rotation(std::size_t more) {
  const auto length = static_cast<std::int64_t>(state_.length());
  if (state_.turns_long() ||
      !model_.config().rope.turns_long(length + static_cast<std::int64_t>(more)))
    return;
  decode_step_.forget();
  state_.truncate(0);
  state_.set_turns_long(true);
  const std::vector<int> again = std::exchange(tokens_, {});
  if (again.empty()) return;
  const auto callback = std::exchange(on_chunk_, {});
  run_chunks(again, [](int, int, const mx::array& hidden, bool) { return hidden; });
  on_chunk_ = callback;
}

template <class UseHidden>
void Session::run_chunks(std::span<const int> tokens, UseHidden&& use_hidden) {
  check(tokens);
  fit_rotation(tokens.size());
  const models::AdapterPtr adapter = adapters::active_adapter(model_);
  const int n = static_cast<int>(tokens.size());
  for (int begin = 0; begin < n;) {
    throw_if_interrupted();
    const int rows = std::min(options_.chunk, n - begin);
    const mx::array ids(tokens.data() + begin, {rows}, mx::int32);
    models::Batch batch = models::cached_batch({&state_}, {rows}, options_.activation);
    if (adapter) batch.adapters = {adapter};
    // The last layer's rows or what is made of them: pages are written on the way.
    const mx::array result =
        use_hidden(begin, rows, forward_layers(model_, ids, batch), begin + rows == n);
    // The state's arrays are named too: they may hold work that these do not need.
    std::vector<mx::array> outputs = state_.arrays();
    outputs.push_back(result);
    mx::eval(std::move(outputs));
    models::finish_batch(batch);
    tokens_.insert(tokens_.end(), tokens.begin() + begin,
                   tokens.begin() + begin + rows);
    begin += rows;
    if (on_chunk_) on_chunk_(rows);
  }
}

StepLogits Session::step(std::span<const int> tokens,
                         std::vector<kernels::RowDraw> draws) {
  check(tokens);
  fit_rotation(tokens.size());
  throw_if_interrupted();
  std::vector<models::AdapterPtr> active;
  if (models::AdapterPtr adapter = adapters::active_adapter(model_))
    active.push_back(std::move(adapter));
  const int n = static_cast<int>(tokens.size());
  StepLogits logits = decode_step_({&state_}, {n}, tokens, active, std::move(draws));
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  if (on_chunk_) on_chunk_(n);
  return logits;
}

mx::array Session::decode(int token) {
  StepLogits logits = step({&token, 1});
  const std::span<const float> row = logits.row(0);
  return mx::array(row.data(), {logits.width()}, mx::float32);
}

mx::array Session::feed(std::span<const int> tokens) {
  if (tokens.size() == 1) return decode(tokens[0]);
  std::optional<mx::array> logits;
  run_chunks(tokens, [&](int, int rows, const mx::array& hidden, bool last) {
    if (!last) return hidden;
    logits = mx::reshape(
        model_.head(mx::slice(hidden, {rows - 1, 0}, {rows, hidden.shape(1)}),
                    options_.activation),
        {-1});
    return *logits;
  });
  return *logits;
}

void Session::feed_hidden(
    std::span<const int> tokens,
    const std::function<void(int first, const mx::array& hidden)>& on_rows) {
  run_chunks(tokens, [&](int begin, int, const mx::array& hidden, bool) {
    std::vector<mx::array> outputs = state_.arrays();
    outputs.push_back(hidden);
    mx::eval(std::move(outputs));
    on_rows(begin, hidden);
    return hidden;
  });
}

void Session::feed_all(
    std::span<const int> tokens,
    const std::function<void(int first, const mx::array& logits)>& on_rows) {
  // Logits of 16 M values, 64 MB, at most at a time.
  const int head_rows = std::max(1, (16 << 20) / model_.config().vocab_size);
  feed_hidden(tokens, [&](int begin, const mx::array& hidden) {
    const int rows = hidden.shape(0), width = hidden.shape(1);
    for (int i = 0; i < rows; i += head_rows) {
      const int end = std::min(i + head_rows, rows);
      const mx::array logits =
          model_.head(mx::slice(hidden, {i, 0}, {end, width}), options_.activation);
      mx::eval(logits);
      on_rows(begin + i, logits);
    }
  });
}

}  // namespace optiq::generation
