#include "optiq/sensitivity/kv/cache_divergence.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/base/error.h"
#include "optiq/base/signal.h"
#include "optiq/kernels/kv_page/kv_page.h"

namespace optiq::sensitivity {
namespace {

constexpr auto kExact = kernels::Activation::kExact;
constexpr std::size_t kLogitBytes = 64 << 20;  // of one call of the head

mx::array rows(const mx::array& x, int begin, int end) {
  return mx::slice(x, {begin, 0}, {end, x.shape(1)});
}

// Observes queries while it lives.
class Observation {
 public:
  Observation(models::Model& model, models::QueryObserver observer) : model_(model) {
    model.observe_queries(std::move(observer));
  }
  ~Observation() { model_.observe_queries(nullptr); }
  Observation(const Observation&) = delete;
  Observation& operator=(const Observation&) = delete;

 private:
  models::Model& model_;
};

}  // namespace

CacheMeter::CacheMeter(models::Model& model, std::vector<std::vector<int>> sequences,
                       const CacheDivergenceOptions& options)
    : model_(model), sequences_(std::move(sequences)), options_(options) {
  OPTIQ_CHECK(!sequences_.empty(), "a divergence needs text");
  cache::CacheOptions in_float;
  in_float.float_type = FloatType::kF32;
  float_cache_ = std::make_shared<cache::KvCache>(model.layer_shapes(), in_float);
  for (std::size_t i = 0; i < sequences_.size(); ++i) {
    const int length = static_cast<int>(sequences_[i].size());
    OPTIQ_CHECK(length > 0, "a sequence has tokens");
    const int rows_each = std::min(length, options_.chunk);
    if (groups_.empty() || groups_.back().length != length ||
        (groups_.back().n_sequences + 1) * rows_each > options_.batch_tokens)
      groups_.push_back({static_cast<int>(i), 0, length});
    ++groups_.back().n_sequences;
  }
  run_reference();
}

int CacheMeter::head_rows() const {
  return std::max<int>(
      1, static_cast<int>(kLogitBytes / sizeof(float)) / model_.config().vocab_size);
}

CacheMeter::Chunks CacheMeter::embed(const Group& group) const {
  Chunks chunks;
  for (int begin = 0; begin < group.length; begin += options_.chunk) {
    const int end = std::min(begin + options_.chunk, group.length);
    std::vector<int> ids;
    for (int s = 0; s < group.n_sequences; ++s) {
      const auto& tokens =
          sequences_[static_cast<std::size_t>(group.first_sequence + s)];
      ids.insert(ids.end(), tokens.begin() + begin, tokens.begin() + end);
    }
    chunks.push_back(model_.embed(
        mx::array(ids.begin(), {static_cast<int>(ids.size())}, mx::int32)));
    mx::eval(chunks.back());
  }
  return chunks;
}

CacheMeter::States CacheMeter::states(
    const Group& group, const std::shared_ptr<cache::KvCache>& cache) const {
  States states;
  for (int s = 0; s < group.n_sequences; ++s) states.emplace_back(cache);
  return states;
}

// Pages of layers outside [from, to) stay unwritten; nothing reads them.
void CacheMeter::run(const Group& group, Chunks& x, int from, int to,
                     States& states) const {
  std::vector<cache::SequenceState*> pointers;
  for (auto& state : states) pointers.push_back(&state);
  for (mx::array& rows : x) {
    const int tokens = rows.shape(0) / group.n_sequences;
    const models::Batch batch = models::cached_batch(
        pointers, std::vector<int>(pointers.size(), tokens), kExact);
    for (int i = from; i < to; ++i) {
      throw_if_interrupted();
      rows = model_.layer(i, rows, batch);
      mx::eval(rows);
    }
    std::vector<mx::array> outputs{rows};
    for (const auto& state : states)
      for (const mx::array& array : state.arrays()) outputs.push_back(array);
    mx::eval(outputs);
    models::finish_batch(batch);
  }
}

// The rows of a chunk that lie in the later half of their sequence.
mx::array CacheMeter::late_rows(const Group& group, int chunk,
                                const mx::array& x) const {
  const int tokens = x.shape(0) / group.n_sequences;
  const int skipped = std::clamp(group.length / 2 - chunk * options_.chunk, 0, tokens);
  if (skipped == 0) return x;
  std::vector<mx::array> parts;
  for (int s = 0; s < group.n_sequences; ++s)
    parts.push_back(rows(x, s * tokens + skipped, (s + 1) * tokens));
  return mx::concatenate(std::move(parts), 0);
}

std::vector<int> CacheMeter::sequences_of_late_rows(const Group& group,
                                                    int chunk) const {
  const int begin = std::max(group.length / 2, chunk * options_.chunk);
  const int end = std::min(group.length, (chunk + 1) * options_.chunk);
  std::vector<int> sequences;
  for (int s = 0; s < group.n_sequences; ++s)
    sequences.insert(sequences.end(),
                     static_cast<std::size_t>(std::max(end - begin, 0)),
                     group.first_sequence + s);
  return sequences;
}

// Sums over the tokens of keys and of squares, from the pages that they were written
// to.
void CacheMeter::add_keys_and_values(const Group& group, const States& states) {
  const auto& shapes = model_.layer_shapes();
  for (int i = 0; i < model_.n_layers(); ++i) {
    const cache::LayerShape& shape = shapes[static_cast<std::size_t>(i)];
    if (shape.n_kv_heads == 0) continue;
    const auto D = static_cast<std::size_t>(shape.head_dim);
    ChannelStatistics& sums = channels_[i];
    for (auto* values : {&sums.k_mean, &sums.k, &sums.v})
      values->resize(static_cast<std::size_t>(shape.n_kv_heads) * D);
    std::vector<float> k(static_cast<std::size_t>(group.length) * D), v(k.size());
    for (const auto& state : states) {
      const kernels::PagedKv pages = state.pages(i);
      for (int head = 0; head < shape.n_kv_heads; ++head) {
        kernels::read_from_pages(pages.pages, {.head = head,
                                               .first = 0,
                                               .tokens = group.length,
                                               .k = k.data(),
                                               .v = v.data(),
                                               .undo_transform = true});
        const std::size_t first = static_cast<std::size_t>(head) * D;
        for (std::size_t j = 0; j < k.size(); ++j) {
          sums.k_mean[first + j % D] += k[j];
          sums.k[first + j % D] += k[j] * k[j];
          sums.v[first + j % D] += v[j] * v[j];
        }
      }
    }
  }
}

// Sums of squares, from [T, n_heads, head_dim].
void CacheMeter::add_queries(int layer, const mx::array& q) {
  const cache::LayerShape& shape =
      model_.layer_shapes()[static_cast<std::size_t>(layer)];
  const int per_key = q.shape(1) / shape.n_kv_heads;
  const mx::array squares = mx::sum(
      mx::reshape(mx::square(q), {q.shape(0), shape.n_kv_heads, per_key, q.shape(2)}),
      std::vector<int>{0, 2});
  const mx::array mean =
      mx::contiguous(mx::flatten(squares) * (1.0f / static_cast<float>(per_key)));
  mx::eval(mean);
  auto& sums = channels_[layer].q;
  sums.resize(mean.size());
  for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += mean.data<float>()[i];
}

void CacheMeter::run_reference() {
  const Observation observation(
      model_, [this](int layer, const mx::array& q) { add_queries(layer, q); });
  std::int64_t n_late = 0, n_tokens = 0;
  for (const Group& group : groups_) {
    n_late += std::int64_t{group.n_sequences} * (group.length - group.length / 2);
    n_tokens += std::int64_t{group.n_sequences} * group.length;
  }
  const bool hold =
      n_late * model_.config().vocab_size * static_cast<std::int64_t>(sizeof(float)) <=
      options_.reference_bytes;
  for (const Group& group : groups_) {
    Chunks x = embed(group);
    States written = states(group, float_cache_);
    run(group, x, 0, model_.n_layers(), written);
    add_keys_and_values(group, written);
    Chunks late;
    std::vector<std::vector<float>> held;
    for (int c = 0; c < static_cast<int>(x.size()); ++c) {
      late.push_back(late_rows(group, c, x[static_cast<std::size_t>(c)]));
      mx::eval(late.back());
      held.emplace_back();
      for (int begin = 0; hold && begin < late.back().shape(0); begin += head_rows()) {
        const int end = std::min(begin + head_rows(), late.back().shape(0));
        mx::array logits = model_.head(rows(late.back(), begin, end), kExact);
        mx::eval(logits);
        held.back().insert(held.back().end(), logits.data<float>(),
                           logits.data<float>() + logits.size());
      }
    }
    reference_rows_.push_back(std::move(late));
    if (hold) reference_logits_.push_back(std::move(held));
  }
  const auto n = static_cast<float>(n_tokens);
  for (auto& [layer, channels] : channels_) {
    for (float& value : channels.k_mean) value /= n;
    for (auto* squares : {&channels.k, &channels.v, &channels.q})
      for (float& value : *squares) value = std::sqrt(value / n);
    for (std::size_t i = 0; i < channels.k.size(); ++i) {
      const float mean = channels.k_mean[i], rms = channels.k[i];
      channels.k_centred.push_back(std::sqrt(std::max(0.0f, rms * rms - mean * mean)));
    }
  }
  restart();
}

void CacheMeter::restart() {
  stage_ = 0;
  inputs_.clear();
  for (const Group& group : groups_) inputs_.push_back(embed(group));
}

void CacheMeter::advance_to(int layer) {
  OPTIQ_CHECK(layer >= stage_ && layer <= model_.n_layers(),
              "the walk goes forward only");
  if (layer == stage_) return;
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    States written = states(groups_[g], float_cache_);
    run(groups_[g], inputs_[g], stage_, layer, written);
  }
  stage_ = layer;
}

Divergence CacheMeter::measure(const cache::CacheOptions& options,
                               bool with_p99) const {
  const auto cache = std::make_shared<cache::KvCache>(model_.layer_shapes(), options);
  const int vocab = model_.config().vocab_size;
  TokenDivergences tokens;
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    const Group& group = groups_[g];
    Chunks x = inputs_[g];
    States written = states(group, cache);
    run(group, x, stage_, model_.n_layers(), written);
    for (std::size_t c = 0; c < x.size(); ++c) {
      const auto sequences = sequences_of_late_rows(group, static_cast<int>(c));
      if (sequences.empty()) continue;
      const mx::array late = late_rows(group, static_cast<int>(c), x[c]);
      const int n = static_cast<int>(sequences.size());
      for (int begin = 0; begin < n; begin += head_rows()) {
        const int end = std::min(begin + head_rows(), n);
        mx::array logits = model_.head(rows(late, begin, end), kExact);
        mx::eval(logits);
        std::optional<mx::array> computed;
        const float* reference = nullptr;
        if (reference_logits_.empty()) {
          computed = model_.head(rows(reference_rows_[g][c], begin, end), kExact);
          mx::eval(*computed);
          reference = computed->data<float>();
        } else {
          reference = reference_logits_[g][c].data() +
                      static_cast<std::size_t>(begin) * static_cast<std::size_t>(vocab);
        }
        tokens.add(reference, logits.data<float>(), vocab,
                   std::span(sequences).subspan(static_cast<std::size_t>(begin),
                                                static_cast<std::size_t>(end - begin)));
      }
    }
  }
  return summarize(std::move(tokens), with_p99);
}

}  // namespace optiq::sensitivity
