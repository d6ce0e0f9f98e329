#include "optiq/convert/distill.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/base/log.h"
#include "optiq/base/signal.h"

namespace optiq::convert {
namespace {

namespace mx = mlx::core;
using Arrays = std::vector<mx::array>;

constexpr auto kExact = kernels::Activation::kExact;

// Windows whose gradients make one step.
constexpr int kStepWindows = 4;

constexpr float kBeta1 = 0.9f, kBeta2 = 0.99f, kEpsilon = 1e-8f;

mx::array ids_of(const std::vector<int>& window) {
  return mx::array(window.data(), {static_cast<int>(window.size())}, mx::int32);
}

// What the original model says about the windows.
class Teacher {
 public:
  Teacher(models::Model& model, const std::vector<std::vector<int>>& windows)
      : head_(model.reference_head()) {
    for (const auto& window : windows) {
      throw_if_interrupted();
      const auto batch =
          models::uncached_batch({static_cast<int>(window.size())}, kExact);
      mx::array hidden = model.hidden(ids_of(window), batch);
      mx::eval(hidden);
      hidden_.push_back(std::move(hidden));
    }
  }

  mx::array logits(std::size_t window) const { return head_(hidden_[window]); }

 private:
  std::function<mx::array(const mx::array&)> head_;
  Arrays hidden_;
};

// Scales and biases of one matrix: s0 (1 + change of scale), z0 + |s0| change of bias,
// both rounded to the stored type. Changes are in units that suit all matrices.
struct Trained {
  models::LinearModule* module;
  mx::array s0, z0;  // float32
  mx::Dtype type;

  mx::array scales(const mx::array& change) const {
    return mx::astype(s0 * (1.0f + change), type);
  }
  mx::array biases(const mx::array& change) const {
    return mx::astype(z0 + mx::abs(s0) * change, type);
  }
  void place(mx::array s, mx::array z) const {
    module->weight.scales = std::move(s);
    module->weight.biases = std::move(z);
  }
};

std::vector<Trained> trained_modules(models::Model& model, const Plan& plan,
                                     int widest) {
  std::vector<Trained> all;
  for (models::LinearModule* module : model.linears()) {
    const kernels::LinearWeight& w = module->weight;
    const auto planned = plan.find(module->path);
    if (planned == plan.end() || !planned->second || !w.biases ||
        w.spec.mode != QuantMode::kAffine || w.spec.bits > widest ||
        module->n_experts > 1)
      continue;
    // A table that only gives rows has no gradient here.
    if (module->layer == models::LinearModule::kEmbedding && module != &model.output())
      continue;
    all.push_back({module, mx::astype(*w.scales, mx::float32),
                   mx::astype(*w.biases, mx::float32), w.scales->dtype()});
  }
  return all;
}

// Mean KL(teacher || student) of the rows.
mx::array divergence(const mx::array& teacher, const mx::array& student) {
  const mx::array p = teacher - mx::logsumexp(teacher, -1, true);
  const mx::array q = student - mx::logsumexp(student, -1, true);
  return mx::mean(mx::sum(mx::exp(p) * (p - q), -1));
}

class Student {
 public:
  Student(models::Model& model, std::vector<Trained> trained)
      : model_(model), trained_(std::move(trained)) {
    for (const Trained& t : trained_)
      for (int side = 0; side < 2; ++side) {
        changes_.push_back(mx::zeros(t.s0.shape()));
        means_.push_back(changes_.back());
        squares_.push_back(changes_.back());
      }
  }

  bool empty() const { return trained_.empty(); }
  const Arrays& changes() const { return changes_; }
  const std::vector<Trained>& trained() const { return trained_; }

  // Gives the model the scales and biases of these changes, evaluated.
  void place(const Arrays& changes) const {
    Arrays placed;
    for (std::size_t i = 0; i < trained_.size(); ++i) {
      mx::array s = trained_[i].scales(changes[2 * i]);
      mx::array z = trained_[i].biases(changes[2 * i + 1]);
      placed.insert(placed.end(), {s, z});
      trained_[i].place(s, z);
    }
    mx::eval(std::move(placed));
  }

  // Adds the gradients of a window to those of the next step.
  void add(const std::vector<int>& window, const mx::array& teacher) {
    // Rows of the embedding as they are now; they are not followed back.
    const mx::array x0 = model_.embed(ids_of(window));
    mx::eval(x0);
    const auto batch =
        models::uncached_batch({static_cast<int>(window.size())}, kExact);
    const auto loss = [&](const Arrays& changes) {
      for (std::size_t i = 0; i < trained_.size(); ++i)
        trained_[i].place(trained_[i].scales(changes[2 * i]),
                          trained_[i].biases(changes[2 * i + 1]));
      mx::array x = x0;
      for (int layer = 0; layer < model_.n_layers(); ++layer)
        x = model_.layer(layer, x, batch);
      return divergence(teacher, model_.head(x, kExact));
    };
    std::vector<int> all(changes_.size());
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int>(i);
    Arrays gradients = mx::grad(loss, all)(changes_);
    mx::eval(gradients);
    place(changes_);  // the arrays of the trace are gone
    if (gradients_.empty()) {
      gradients_ = std::move(gradients);
    } else {
      for (std::size_t i = 0; i < gradients.size(); ++i)
        gradients_[i] = gradients_[i] + gradients[i];
      mx::eval(gradients_);
    }
    ++added_;
  }

  void step(float rate) {
    ++steps_;
    const float first = 1 - std::pow(kBeta1, static_cast<float>(steps_));
    const float second = 1 - std::pow(kBeta2, static_cast<float>(steps_));
    Arrays outputs;
    for (std::size_t i = 0; i < gradients_.size(); ++i) {
      const mx::array gradient = gradients_[i] / static_cast<float>(added_);
      means_[i] = kBeta1 * means_[i] + (1 - kBeta1) * gradient;
      squares_[i] = kBeta2 * squares_[i] + (1 - kBeta2) * mx::square(gradient);
      changes_[i] = changes_[i] - rate / first * means_[i] /
                                      (mx::sqrt(squares_[i] / second) + kEpsilon);
      outputs.insert(outputs.end(), {means_[i], squares_[i], changes_[i]});
    }
    mx::eval(std::move(outputs));
    gradients_.clear();
    added_ = 0;
    place(changes_);
  }

 private:
  models::Model& model_;
  std::vector<Trained> trained_;
  Arrays changes_, means_, squares_;  // of each matrix's scales, then its biases
  Arrays gradients_;                  // sums over the windows since the last step
  int added_ = 0, steps_ = 0;
};

}  // namespace

void distill(Encoder& encoder, const Plan& plan, quantize::Search search,
             const std::vector<std::vector<int>>& windows,
             const std::function<double()>& held_out, const DistillOptions& options,
             const std::function<void(int done, int total)>& progress) {
  models::Model& model = encoder.model();
  encoder.restore();
  const Teacher teacher(model, windows);
  encoder.apply(plan, search);
  Student student(model, trained_modules(model, plan, options.widest));
  if (student.empty()) return;
  double least = held_out();
  Arrays best = student.changes();
  const int total = options.epochs * static_cast<int>(windows.size());
  int seen = 0;
  for (int epoch = 0; epoch < options.epochs; ++epoch) {
    for (std::size_t w = 0; w < windows.size(); ++w) {
      throw_if_interrupted();
      student.add(windows[w], teacher.logits(w));
      ++seen;
      if (progress) progress(seen, total);
      if ((w + 1) % kStepWindows != 0 && w + 1 < windows.size()) continue;
      // A warm first tenth, then half a cosine.
      const double at = static_cast<double>(seen) / total;
      const double rate = options.learning_rate * std::min(1.0, 10 * at) * 0.5 *
                          (1 + std::cos(std::numbers::pi * at));
      student.step(static_cast<float>(rate));
    }
    const double now = held_out();
    log_debug("distillation: {:.5f} nats after {} of {} passes", now, epoch + 1,
              options.epochs);
    if (now >= least) continue;  // a slower step may still be one ahead
    least = now;
    best = student.changes();
  }
  student.place(best);
  for (const Trained& t : student.trained())
    encoder.keep(t.module->path, *plan.at(t.module->path), search, t.module->weight);
}

}  // namespace optiq::convert
