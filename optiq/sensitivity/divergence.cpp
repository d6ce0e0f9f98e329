#include "optiq/sensitivity/divergence.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/base/error.h"
#include "optiq/base/signal.h"
#include "optiq/kernels/kl_divergence/kl_divergence.h"

namespace optiq::sensitivity {
namespace {

constexpr auto kExact = kernels::Activation::kExact;
constexpr std::size_t kLogitBytes = 64 << 20;  // of one call of the head

mx::array ids_array(const std::vector<int>& ids) {
  return mx::array(ids.begin(), {static_cast<int>(ids.size())}, mx::int32);
}

// Adds up the squares of the inputs of each module.
class SquareSums {
 public:
  void add(const std::string& path, const mx::array& x) {
    sums_.insert_or_assign(path, mx::sum(mx::square(x), 0));
  }
  void collect(InputStatistics& statistics) {
    for (auto& [path, sum] : sums_) {
      mx::array values = sum;
      mx::eval(values);
      const float* data = values.data<float>();
      auto& total = statistics.squares[path];
      total.resize(values.size());
      for (std::size_t i = 0; i < total.size(); ++i) total[i] += data[i];
    }
    sums_.clear();
  }

 private:
  std::unordered_map<std::string, mx::array> sums_;
};

// Rows 0, 2, 4, ... and then 1, 3, 5, ...
mx::array evens_first(const mx::array& x) {
  const int rows = x.shape(0), width = x.shape(1);
  if (rows < 2) return x;
  return mx::concatenate({mx::slice(x, {0, 0}, {rows, width}, {2, 1}),
                          mx::slice(x, {1, 0}, {rows, width}, {2, 1})},
                         0);
}

// Rows 2 begin + parity, 2 (begin + 1) + parity, ..., 2 (end - 1) + parity.
mx::array cut(const mx::array& x, int begin, int end, int parity) {
  return mx::slice(x, {2 * begin + parity, 0}, {2 * (end - 1) + parity + 1, x.shape(1)},
                   {2, 1});
}

// The head's answers to all rows, a few rows at a time.
std::vector<float> logits_of(const std::function<mx::array(const mx::array&)>& head,
                             const mx::array& x, int rows_at_once) {
  std::vector<float> all;
  for (int begin = 0; begin < x.shape(0); begin += rows_at_once) {
    const int end = std::min(x.shape(0), begin + rows_at_once);
    mx::array logits = head(mx::slice(x, {begin, 0}, {end, x.shape(1)}));
    mx::eval(logits);
    if (begin == 0)
      all.reserve(logits.size() / static_cast<std::size_t>(end) *
                  static_cast<std::size_t>(x.shape(0)));
    all.insert(all.end(), logits.data<float>(), logits.data<float>() + logits.size());
  }
  return all;
}

}  // namespace

double Divergence::standard_error() const {
  const auto n = static_cast<double>(window_means.size());
  if (n < 2) return 0;
  double squares = 0;
  for (double value : window_means) squares += (value - mean) * (value - mean);
  return std::sqrt(squares / (n - 1) / n);
}

void TokenDivergences::add(const float* reference, const float* logits, int vocab,
                           std::span<const int> windows_of_rows) {
  const std::size_t done = kl.size();
  kl.resize(done + windows_of_rows.size());
  same_top1.resize(kl.size());
  kernels::kl_divergence(reference, logits,
                         static_cast<std::int64_t>(windows_of_rows.size()), vocab,
                         kl.data() + done, same_top1.data() + done);
  windows.insert(windows.end(), windows_of_rows.begin(), windows_of_rows.end());
}

Divergence summarize(TokenDivergences tokens, bool with_p99) {
  auto& kl = tokens.kl;
  OPTIQ_CHECK(!kl.empty(), "a divergence needs tokens");
  Divergence result;
  const auto n_windows = static_cast<std::size_t>(std::ranges::max(tokens.windows) + 1);
  std::vector<double> sums(n_windows), counts(n_windows);
  for (std::size_t i = 0; i < kl.size(); ++i) {
    sums[static_cast<std::size_t>(tokens.windows[i])] += kl[i];
    counts[static_cast<std::size_t>(tokens.windows[i])] += 1;
  }
  for (std::size_t w = 0; w < sums.size(); ++w)
    result.window_means.push_back(sums[w] / counts[w]);
  const auto n = static_cast<double>(kl.size());
  result.mean = std::accumulate(kl.begin(), kl.end(), 0.0) / n;
  result.top1_agreement =
      std::accumulate(tokens.same_top1.begin(), tokens.same_top1.end(), 0.0) / n;
  if (with_p99) {
    const auto at = static_cast<std::ptrdiff_t>(0.99 * (n - 1));
    std::nth_element(kl.begin(), kl.begin() + at, kl.end());
    result.p99 = kl[static_cast<std::size_t>(at)];
  }
  return result;
}

std::vector<float> InputStatistics::mean_squares(const std::string& path) const {
  const auto found = squares.find(path);
  if (found == squares.end()) return {};
  std::vector<float> means = found->second;
  for (float& value : means)
    value /= static_cast<float>(std::max<std::int64_t>(tokens, 1));
  return means;
}

DivergenceMeter::DivergenceMeter(models::Model& model,
                                 std::vector<std::vector<int>> windows,
                                 const DivergenceOptions& options,
                                 InputStatistics* statistics)
    : model_(model), windows_(std::move(windows)), options_(options) {
  OPTIQ_CHECK(!windows_.empty(), "a divergence needs text");
  for (std::size_t i = 0; i < windows_.size(); ++i) {
    const int length = static_cast<int>(windows_[i].size());
    if (groups_.empty() ||
        static_cast<int>(groups_.back().ids.size()) + length > options_.batch_tokens)
      groups_.push_back({{}, {}, static_cast<int>(i)});
    Group& group = groups_.back();
    group.lengths.push_back(length);
    group.ids.insert(group.ids.end(), windows_[i].begin(), windows_[i].end());
  }
  run_reference(statistics);
}

std::int64_t DivergenceMeter::n_tokens() const {
  std::int64_t n = 0;
  for (const auto& window : windows_) n += static_cast<std::int64_t>(window.size());
  return n;
}

models::Batch DivergenceMeter::batch(const Group& group) const {
  return models::uncached_batch(group.lengths, kExact);
}

int DivergenceMeter::head_rows() const {
  return std::max(
      1, static_cast<int>(kLogitBytes / sizeof(float)) / model_.config().vocab_size);
}

bool DivergenceMeter::fits_memory(std::int64_t rows) const {
  return rows * model_.config().vocab_size * static_cast<std::int64_t>(sizeof(float)) <=
         options_.reference_bytes;
}

void DivergenceMeter::run_reference(InputStatistics* statistics) {
  reference_.head = model_.reference_head();
  SquareSums sums;
  if (statistics) {
    statistics->tokens += n_tokens();
    model_.observe_inputs([&](const models::LinearModule& module, const mx::array& x) {
      sums.add(module.path, x);
    });
  }
  for (const Group& group : groups_) {
    reference_.hidden.push_back(model_.embed(ids_array(group.ids)));
    mx::eval(reference_.hidden.back());
  }
  for (int i = 0; i < model_.n_layers(); ++i)
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      throw_if_interrupted();
      mx::array& x = reference_.hidden[g];
      x = model_.layer(i, x, batch(groups_[g]));
      mx::eval(x);
      if (statistics) sums.collect(*statistics);
    }
  if (statistics) {
    for (const mx::array& x : reference_.hidden) {
      model_.head(x, kExact);  // its input is seen; the product is not computed
      sums.collect(*statistics);
    }
    model_.observe_inputs(nullptr);
  }
  if (fits_memory(n_tokens()))
    for (const mx::array& x : reference_.hidden)
      reference_.logits.push_back(
          logits_of(reference_.head, evens_first(x), head_rows()));
  restart();
}

void DivergenceMeter::restart() {
  stage_ = models::LinearModule::kEmbedding;
  inputs_.clear();
  rebased_.reset();
}

void DivergenceMeter::advance_to(int layer) {
  OPTIQ_CHECK(layer >= stage_, "the walk goes forward only");
  if (stage_ == models::LinearModule::kEmbedding && layer > stage_) {
    for (const Group& group : groups_) {
      inputs_.push_back(model_.embed(ids_array(group.ids)));
      mx::eval(inputs_.back());
    }
    stage_ = 0;
  }
  for (; stage_ < layer && stage_ < model_.n_layers(); ++stage_)
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      throw_if_interrupted();
      inputs_[g] = model_.layer(stage_, inputs_[g], batch(groups_[g]));
      mx::eval(inputs_[g]);
    }
}

int DivergenceMeter::covered_windows(const Extent& extent) const {
  return extent.n_windows > 0 ? std::min(extent.n_windows, n_windows()) : n_windows();
}

// From the current stage to the last layer.
DivergenceMeter::Part DivergenceMeter::run(std::size_t g, int n_windows) {
  throw_if_interrupted();
  const Group& group = groups_[g];
  Group part{{}, {}, group.first_window};  // the last group may be cut
  std::vector<int> window_of_row;
  for (std::size_t i = 0; i < group.lengths.size(); ++i) {
    const int window = group.first_window + static_cast<int>(i);
    if (window >= n_windows) break;
    part.lengths.push_back(group.lengths[i]);
    window_of_row.insert(window_of_row.end(),
                         static_cast<std::size_t>(group.lengths[i]), window);
  }
  const int rows = static_cast<int>(window_of_row.size());
  part.ids.assign(group.ids.begin(), group.ids.begin() + rows);
  const models::Batch call = batch(part);
  mx::array x = stage_ == models::LinearModule::kEmbedding
                    ? model_.embed(ids_array(part.ids))
                    : inputs_[g];
  if (x.shape(0) > rows) x = mx::slice(x, {0, 0}, {rows, x.shape(1)});
  for (int i = std::max(stage_, 0); i < model_.n_layers(); ++i)
    x = model_.layer(i, x, call);
  mx::eval(x);
  return {std::move(window_of_row), std::move(x)};
}

void DivergenceMeter::rebase(const Extent& extent) {
  rebased_.reset();
  Answers answers{{}, model_.reference_head(), {}};
  std::int64_t rows = 0;
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    if (groups_[g].first_window >= covered_windows(extent)) break;
    answers.hidden.push_back(run(g, covered_windows(extent)).hidden);
    rows += answers.hidden.back().shape(0);
  }
  if (fits_memory(extent.every_second_token ? (rows + 1) / 2 : rows))
    for (const mx::array& x : answers.hidden) {
      mx::array wanted = evens_first(x);
      if (extent.every_second_token)
        wanted = mx::slice(wanted, {0, 0}, {(x.shape(0) + 1) / 2, x.shape(1)});
      answers.logits.push_back(logits_of(answers.head, wanted, head_rows()));
    }
  rebased_ = std::move(answers);
}

Divergence DivergenceMeter::measure(const Extent& extent) {
  const int vocab = model_.config().vocab_size;
  const int n_windows = covered_windows(extent);
  const int head_rows = this->head_rows();
  const Answers& answers = rebased_ ? *rebased_ : reference_;
  TokenDivergences tokens;
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    if (groups_[g].first_window >= n_windows) break;
    const Part part = run(g, n_windows);
    const int rows = part.hidden.shape(0), all_rows = answers.hidden[g].shape(0);
    for (int parity = 0; parity < (extent.every_second_token ? 1 : 2); ++parity) {
      const int n = (rows - parity + 1) / 2;
      // Where these rows lie among the reference's, which come evens first.
      const int reference_begin = parity == 0 ? 0 : (all_rows + 1) / 2;
      for (int begin = 0; begin < n; begin += head_rows) {
        const int end = std::min(n, begin + head_rows);
        mx::array logits = model_.head(cut(part.hidden, begin, end, parity), kExact);
        mx::eval(logits);
        const float* reference = nullptr;
        std::optional<mx::array> computed;
        if (!answers.logits.empty()) {
          reference = answers.logits[g].data() +
                      static_cast<std::size_t>(reference_begin + begin) *
                          static_cast<std::size_t>(vocab);
        } else {
          computed = answers.head(cut(answers.hidden[g], begin, end, parity));
          mx::eval(*computed);
          reference = computed->data<float>();
        }
        std::vector<int> windows;
        for (int i = begin; i < end; ++i)
          windows.push_back(
              part.window_of_row[static_cast<std::size_t>(2 * i + parity)]);
        tokens.add(reference, logits.data<float>(), vocab, windows);
      }
    }
  }
  return summarize(std::move(tokens), extent.with_p99);
}

}  // namespace optiq::sensitivity
