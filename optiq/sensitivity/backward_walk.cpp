#include "optiq/sensitivity/backward_walk.h"

#include <algorithm>
#include <utility>

#include "mlx/ops.h"
#include "mlx/random.h"
#include "mlx/transforms.h"
#include "optiq/base/signal.h"

namespace optiq::sensitivity {
namespace {

namespace mx = mlx::core;
using Arrays = std::vector<mx::array>;
using models::LinearModule;

constexpr auto kExact = kernels::Activation::kExact;

}  // namespace

BackwardWalk::BackwardWalk(models::Model& model,
                           const std::vector<std::vector<int>>& windows,
                           std::int64_t input_bytes)
    : model_(model), counts_(static_cast<std::size_t>(model.config().vocab_size)) {
  std::int64_t held = 0;
  for (const auto& window : windows) {
    throw_if_interrupted();
    const int n = static_cast<int>(window.size());
    Trip trip{mx::array(window.data(), {n}, mx::int32),
              models::uncached_batch({n}, kExact),
              {}};
    trip.inputs.push_back(model_.embed(trip.ids));
    mx::eval(trip.inputs.back());
    held += (model_.n_layers() + 1) *
            static_cast<std::int64_t>(trip.inputs.back().nbytes());
    if (held > input_bytes && !trips_.empty()) break;
    tokens_ += n;
    count(trip.ids);
    trips_.push_back(std::move(trip));
  }
  for (int i = 0; i < model_.n_layers(); ++i)
    for (Trip& trip : trips_) {
      throw_if_interrupted();
      trip.inputs.push_back(model_.layer(i, trip.inputs.back(), trip.batch));
      mx::eval(trip.inputs.back());
    }
}

BackwardWalk::~BackwardWalk() {
  model_.change_outputs(nullptr);
  model_.observe_inputs(nullptr);
}

void BackwardWalk::back_through_head(std::uint64_t seed) {
  mx::array key = mx::random::key(seed);
  for (Trip& trip : trips_) {
    throw_if_interrupted();
    const mx::array& x = trip.inputs.back();
    Arrays parts;
    for (int begin = 0; begin < x.shape(0); begin += kHeadRows) {
      const int end = std::min(begin + kHeadRows, x.shape(0));
      const auto keys = mx::random::split(key);
      key = keys.first;
      const auto drawn_log_likelihood = [&](const Arrays& in) -> Arrays {
        const mx::array logits = model_.head(in[0], kExact);
        const mx::array drawn = mx::stop_gradient(mx::expand_dims(
            mx::random::categorical(mx::stop_gradient(logits), -1, keys.second), -1));
        return {mx::sum(mx::take_along_axis(logits, drawn, -1) -
                        mx::logsumexp(logits, -1, true)),
                mx::stop_gradient(mx::astype(drawn, mx::int32))};
      };
      const mx::array rows = mx::slice(x, {begin, 0}, {end, x.shape(1)});
      // Stopped outputs take no cotangent.
      const auto [outputs, gradients] =
          mx::vjp(drawn_log_likelihood, {rows}, {mx::array(1.0f)});
      parts.push_back(gradients[0]);
      mx::eval(parts.back(), outputs[1]);
      count(outputs[1]);
    }
    trip.back = parts.size() == 1 ? parts[0] : mx::concatenate(parts, 0);
    mx::eval(trip.back);
  }
}

SeenByPath BackwardWalk::back_through(int i) {
  SeenByPath seen;
  for (Trip& trip : trips_) {
    throw_if_interrupted();
    back_through(i, trip, seen);
    // What went into layer i + 1 is done with; the head's input is asked for again.
    if (i + 1 < model_.n_layers())
      trip.inputs[static_cast<std::size_t>(i) + 1] = mx::array(0.0f);
  }
  return seen;
}

void BackwardWalk::back_through(int i, Trip& trip, SeenByPath& seen) {
  const mx::array x = trip.inputs[static_cast<std::size_t>(i)];
  // Zeros are added to every product: the gradients by them are those by the
  // products.
  std::vector<const LinearModule*> modules;
  Arrays primals{x};
  model_.change_outputs([&](const LinearModule& module, const mx::array& y) {
    modules.push_back(&module);
    primals.push_back(mx::zeros(y.shape()));
    return y;
  });
  model_.layer(i, x, trip.batch);
  std::map<const LinearModule*, std::size_t> place;
  for (std::size_t m = 0; m < modules.size(); ++m) place[modules[m]] = m + 1;
  std::map<const LinearModule*, std::size_t> given_at;  // in what function returns
  const auto function = [&](const Arrays& in) -> Arrays {
    Arrays inputs;  // each once, however many modules it is given to
    model_.change_outputs([&](const LinearModule& module, const mx::array& y) {
      return y + in[place.at(&module)];
    });
    model_.observe_inputs([&](const LinearModule& module, const mx::array& given) {
      const auto same = [&](const mx::array& x) { return x.id() == given.id(); };
      const auto known = std::ranges::find_if(inputs, same);
      given_at[&module] = static_cast<std::size_t>(known - inputs.begin()) + 1;
      if (known == inputs.end()) inputs.push_back(given);
    });
    Arrays outputs{model_.layer(i, in[0], trip.batch)};
    for (const mx::array& x : inputs) outputs.push_back(mx::stop_gradient(x));
    model_.observe_inputs(nullptr);
    return outputs;
  };
  // Stopped outputs take no cotangent.
  auto [outputs, gradients] = mx::vjp(function, primals, {trip.back});
  model_.change_outputs(nullptr);
  Arrays all = gradients;
  all.insert(all.end(), outputs.begin() + 1, outputs.end());
  mx::eval(std::move(all));
  for (std::size_t m = 0; m < modules.size(); ++m) {
    Seen& of_module = seen[modules[m]->path];
    of_module.x.push_back(outputs[given_at.at(modules[m])]);
    of_module.g.push_back(gradients[m + 1]);
  }
  trip.back = gradients[0];
}

void BackwardWalk::count(const mx::array& ids) {
  const mx::array flat = mx::contiguous(mx::flatten(ids));
  mx::eval(flat);
  for (std::size_t i = 0; i < flat.size(); ++i)
    ++counts_[static_cast<std::size_t>(flat.data<std::int32_t>()[i])];
}

}  // namespace optiq::sensitivity
