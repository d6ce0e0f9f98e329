// A text cut into windows of tokens, and windows gathered into forward calls.
#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "mlx/array.h"
#include "optiq/cache/cache_options.h"
#include "optiq/models/model.h"

namespace optiq::eval {

namespace mx = mlx::core;

using Window = std::vector<int>;

struct WindowOptions {
  int length = 2048;  // tokens of a window; the last one may be shorter
  int count = 0;      // at most this many; 0: all
};

/// Consecutive windows of at least two tokens.
///
/// Throws    std::invalid_argument if there is not one.
std::vector<Window> cut_windows(std::span<const int> tokens,
                                const WindowOptions& options);

/// The rows of some windows in one call.
struct WindowBatch {
  std::vector<int> ids;
  std::vector<int> targets;  // of each row: the next token; -1 for the last of a window
  std::vector<int> lengths;
};

/// Windows gathered in order, as many to a call as fit `max_tokens`, one at least.
std::vector<WindowBatch> gather(const std::vector<Window>& windows, int max_tokens);

/// How a model that is measured runs.
struct ForwardOptions {
  kernels::Activation activation = kernels::Activation::kInt8;
  std::optional<cache::CacheOptions> cache;  // none: whole windows, without a cache
};

/// Embedding and layers of a batch, evaluated. Through a cache, each window is a prompt
/// of its own, read in the chunks that generate() reads: what its cache does to a token
/// is done to those behind it.
///
/// Shapes    -> [T, hidden_size] float32
mx::array hidden_of(models::Model& model, const WindowBatch& batch,
                    const ForwardOptions& options);

/// Rows of logits that are held at a time: 64 MB of them.
int head_rows(const models::Model& model);

/// The logits of rows [begin, end) of `hidden`, evaluated.
mx::array head_of(models::Model& model, const mx::array& hidden, int begin, int end,
                  kernels::Activation activation);

/// Told how many of all tokens are done.
using ProgressCallback = std::function<void(std::int64_t done, std::int64_t total)>;

}  // namespace optiq::eval
