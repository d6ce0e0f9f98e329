#include "optiq/train/objective.h"

#include <algorithm>
#include <cstring>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/kernels/cross_entropy/cross_entropy.h"

namespace optiq::train {
namespace {

// Logits of 16 M values, 64 MB, at most at a time; the same for the output matrix.
constexpr int kMostValues = 16 << 20;

// Rows [begin, end) of a weight matrix, without a copy.
kernels::LinearWeight rows_of(const kernels::LinearWeight& w, int begin, int end) {
  const auto part = [&](const mx::array& x) {
    return mx::slice(x, {begin, 0}, {end, x.shape(1)});
  };
  kernels::LinearWeight slice{part(w.weight), std::nullopt, std::nullopt, std::nullopt,
                              w.spec};
  if (w.scales) slice.scales = part(*w.scales);
  if (w.biases) slice.biases = part(*w.biases);
  return slice;
}

}  // namespace

struct Objective::Rows {
  std::vector<int> ids;
  std::vector<int> lengths;
  std::vector<int> learnt;  // rows
  std::vector<std::int32_t> targets;

  explicit Rows(std::span<const Example* const> batch) {
    for (const Example* example : batch) {
      const int n = static_cast<int>(example->tokens.size()) - 1;
      for (int t = 0; t < n; ++t) {
        const auto next = static_cast<std::size_t>(t) + 1;
        if (example->learnt[next]) {
          learnt.push_back(static_cast<int>(ids.size()));
          targets.push_back(example->tokens[next]);
        }
        ids.push_back(example->tokens[next - 1]);
      }
      lengths.push_back(n);
    }
  }

  int size() const { return static_cast<int>(ids.size()); }
  mx::array array() const { return mx::array(ids.data(), {size()}, mx::int32); }
};

mx::array Objective::hidden(const Rows& rows, const models::AdapterPtr& adapter) {
  models::Batch batch = models::uncached_batch(rows.lengths, options_.activation);
  if (adapter) batch.adapters.assign(rows.lengths.size(), adapter);
  mx::array x = model_.embed(rows.array());
  for (int i = 0; i < model_.n_layers(); ++i) x = model_.layer(i, x, batch);
  return model_.final_norm(x);
}

mx::array Objective::traced(const Rows& rows, const LoraParameters& parameters,
                            std::uint64_t dropout_step,
                            const std::vector<mx::array>& values) {
  if (!options_.checkpoint)
    return hidden(rows, parameters.adapter(values, dropout_step));
  // Layers are run again for their gradients, when this has returned.
  const models::Batch base = models::uncached_batch(rows.lengths, options_.activation);
  mx::array x = model_.embed(rows.array());
  for (int i = 0; i < model_.n_layers(); ++i) {
    const auto layer = mx::checkpoint(
        [this, &parameters, base, dropout_step, i](const std::vector<mx::array>& in) {
          models::Batch batch = base;
          batch.adapters.assign(
              base.segments.size(),
              parameters.adapter({in.begin() + 1, in.end()}, dropout_step));
          return std::vector<mx::array>{model_.layer(i, in[0], batch)};
        });
    std::vector<mx::array> in{x};
    in.insert(in.end(), values.begin(), values.end());
    x = layer(in)[0];
  }
  return model_.final_norm(x);
}

mx::array Objective::back_through_head(const mx::array& gradient) {
  const kernels::LinearWeight& w = model_.output().weight;
  const int V = w.output_dim(), K = w.input_dim();
  if (std::int64_t{V} * K <= kMostValues) {
    if (!head_) {
      head_ = kernels::dequantized(w);
      mx::eval(*head_);
    }
    return mx::matmul(gradient, *head_);
  }
  const int step = std::max(1, kMostValues / K);
  std::optional<mx::array> sum;
  for (int v = 0; v < V; v += step) {
    const int end = std::min(V, v + step);
    const mx::array part =
        mx::matmul(mx::slice(gradient, {0, v}, {gradient.shape(0), end}),
                   kernels::dequantized(rows_of(w, v, end)));
    sum = sum ? *sum + part : part;
    mx::eval(*sum);
  }
  return *sum;
}

// `gradient` [T, hidden] is filled where it is not null: of the mean over the batch.
Loss Objective::head(const Rows& rows, const mx::array& hidden, float* gradient) {
  const int vocab = model_.output().weight.output_dim(), width = hidden.shape(1);
  const int n = static_cast<int>(rows.learnt.size());
  const int step = std::max(1, kMostValues / vocab);
  const std::vector<float> weights(static_cast<std::size_t>(step),
                                   1 / static_cast<float>(n));
  std::vector<float> losses(static_cast<std::size_t>(step));
  const auto row_bytes = static_cast<std::size_t>(width) * sizeof(float);
  Loss total;
  for (int begin = 0; begin < n; begin += step) {
    const int count = std::min(step, n - begin);
    mx::array x = mx::zeros({count, width});
    mx::eval(x);
    for (int i = 0; i < count; ++i)
      std::memcpy(
          x.data<float>() + static_cast<std::ptrdiff_t>(i) * width,
          hidden.data<float>() +
              static_cast<std::ptrdiff_t>(rows.learnt[std::size_t(begin + i)]) * width,
          row_bytes);
    mx::array logits =
        kernels::linear(x, model_.output().weight, {options_.activation, std::nullopt});
    mx::eval(logits);
    kernels::cross_entropy({logits.data<float>(), rows.targets.data() + begin,
                            weights.data(), losses.data(), count, vocab,
                            gradient != nullptr});
    for (int i = 0; i < count; ++i) total.sum += losses[static_cast<std::size_t>(i)];
    total.tokens += count;
    if (!gradient) continue;
    const mx::array back = back_through_head(logits);
    mx::eval(back);
    for (int i = 0; i < count; ++i)
      std::memcpy(
          gradient +
              static_cast<std::ptrdiff_t>(rows.learnt[std::size_t(begin + i)]) * width,
          back.data<float>() + static_cast<std::ptrdiff_t>(i) * width, row_bytes);
  }
  return total;
}

Loss Objective::loss(std::span<const Example* const> batch,
                     const models::AdapterPtr& adapter) {
  const Rows rows(batch);
  const mx::array x = hidden(rows, adapter);
  mx::eval(x);
  return head(rows, x, nullptr);
}

Loss Objective::gradients(std::span<const Example* const> batch,
                          const LoraParameters& parameters, std::uint64_t dropout_step,
                          std::vector<mx::array>& gradients) {
  const Rows rows(batch);
  // The graph of the gradients is made before the head's is known: it reads this array,
  // which is filled once the forward half has been evaluated.
  mx::array from_head = mx::zeros({rows.size(), model_.config().hidden_size});
  mx::eval(from_head);
  auto [outputs, graph] = mx::vjp(
      [&](const std::vector<mx::array>& values) {
        return std::vector<mx::array>{traced(rows, parameters, dropout_step, values)};
      },
      parameters.values(), {from_head});
  mx::eval(outputs[0]);
  const Loss loss = head(rows, outputs[0], from_head.data<float>());
  mx::eval(graph);
  gradients = std::move(graph);
  return loss;
}

}  // namespace optiq::train
