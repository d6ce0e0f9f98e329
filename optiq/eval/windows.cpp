#include "optiq/eval/windows.h"
#include "optiq/adapters/mount.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/generate/forward.h"
#include "optiq/generate/session.h"

namespace optiq::eval {

std::vector<Window> cut_windows(std::span<const int> tokens,
                                const WindowOptions& options) {
  const auto length = static_cast<std::size_t>(std::max(options.length, 2));
  std::vector<Window> windows;
  for (std::size_t begin = 0; begin + 2 <= tokens.size(); begin += length) {
    if (options.count > 0 && windows.size() == static_cast<std::size_t>(options.count))
      break;
    const std::size_t end = std::min(begin + length, tokens.size());
    windows.emplace_back(tokens.begin() + static_cast<std::ptrdiff_t>(begin),
                         tokens.begin() + static_cast<std::ptrdiff_t>(end));
  }
  if (windows.empty())
    throw std::invalid_argument(
        fmt::format("expected a text of at least two tokens, found {}", tokens.size()));
  return windows;
}

std::vector<WindowBatch> gather(const std::vector<Window>& windows, int max_tokens) {
  std::vector<WindowBatch> batches;
  for (const Window& window : windows) {
    if (batches.empty() || batches.back().ids.size() + window.size() >
                               static_cast<std::size_t>(max_tokens))
      batches.emplace_back();
    WindowBatch& batch = batches.back();
    batch.lengths.push_back(static_cast<int>(window.size()));
    batch.ids.insert(batch.ids.end(), window.begin(), window.end());
    batch.targets.insert(batch.targets.end(), window.begin() + 1, window.end());
    batch.targets.push_back(-1);
  }
  return batches;
}

namespace {

mx::array cached_hidden(models::Model& model, const WindowBatch& batch,
                        const ForwardOptions& options) {
  std::vector<mx::array> parts;
  std::span<const int> ids = batch.ids;
  for (const int length : batch.lengths) {
    generation::Session session(
        model, {.cache = *options.cache, .activation = options.activation});
    session.feed_hidden(ids.first(static_cast<std::size_t>(length)),
                        [&](int, const mx::array& hidden) { parts.push_back(hidden); });
    ids = ids.subspan(static_cast<std::size_t>(length));
  }
  mx::array hidden = mx::concatenate(std::move(parts), 0);
  mx::eval(hidden);
  return hidden;
}

}  // namespace

mx::array hidden_of(models::Model& model, const WindowBatch& batch,
                    const ForwardOptions& options) {
  if (options.cache) return cached_hidden(model, batch, options);
  const mx::array ids(batch.ids.data(), {static_cast<int>(batch.ids.size())},
                      mx::int32);
  models::Batch call = models::uncached_batch(batch.lengths, options.activation);
  if (const auto adapter = adapters::active_adapter(model))
    call.adapters.assign(batch.lengths.size(), adapter);
  mx::array hidden = generation::forward_layers(model, ids, call);
  mx::eval(hidden);
  return hidden;
}

int head_rows(const models::Model& model) {
  return std::max(1, (16 << 20) / model.config().vocab_size);
}

mx::array head_of(models::Model& model, const mx::array& hidden, int begin, int end,
                  kernels::Activation activation) {
  mx::array logits =
      model.head(mx::slice(hidden, {begin, 0}, {end, hidden.shape(1)}), activation);
  mx::eval(logits);
  return logits;
}

}  // namespace optiq::eval
