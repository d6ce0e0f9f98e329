#include "optiq/kernels/experts/route.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "optiq/base/parallel.h"

namespace optiq::kernels {
namespace {

void route_token(const RouteArgs& args, int t, std::vector<std::int32_t>& order) {
  const float* logits = args.logits + std::int64_t{t} * args.n_experts;
  std::int32_t* ids = args.ids + std::int64_t{t} * args.n_active;
  float* weights = args.weights + std::int64_t{t} * args.n_active;
  // A NaN goes last, so that the order is one.
  const auto key = [&](std::int32_t e) {
    return std::isnan(logits[e]) ? -INFINITY : logits[e];
  };
  order.resize(static_cast<std::size_t>(args.n_experts));
  std::iota(order.begin(), order.end(), 0);
  std::partial_sort(order.begin(), order.begin() + args.n_active, order.end(),
                    [&](std::int32_t a, std::int32_t b) {
                      return key(a) != key(b) ? key(a) > key(b) : a < b;
                    });
  const float top = logits[order[0]];
  double all = 0, chosen = 0;
  for (int e = 0; e < args.n_experts; ++e) all += std::exp(double{logits[e]} - top);
  for (int i = 0; i < args.n_active; ++i)
    chosen += std::exp(double{logits[order[static_cast<std::size_t>(i)]]} - top);
  const double sum = args.normalize ? chosen + (all - all) : all;
  for (int i = 0; i < args.n_active; ++i) {
    ids[i] = order[static_cast<std::size_t>(i)];
    const double weight = std::exp(double{logits[ids[i]]} - top) / sum;
    weights[i] = static_cast<float>(
        weight * (args.expert_scale ? double{args.expert_scale[ids[i]]} : 1.0));
  }
}

}  // namespace

void route(const RouteArgs& args) {
  parallel_ranges(static_cast<std::size_t>(args.T), 64,
                  [&](std::size_t begin, std::size_t end) {
                    std::vector<std::int32_t> order;
                    for (std::size_t t = begin; t < end; ++t)
                      route_token(args, static_cast<int>(t), order);
                  });
}

}  // namespace optiq::kernels
