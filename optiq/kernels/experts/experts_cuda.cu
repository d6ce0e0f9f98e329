#include "optiq/kernels/experts/experts_cuda.h"

#include <cmath>

#include "optiq/kernels/experts/expert_rows_args.cuh"
#include "optiq/kernels/experts/sum_experts.cuh"

namespace optiq::kernels::cuda {
namespace {

constexpr int kThreads = 128;

// A warp a token: each lane has every 32nd logit.
__global__ void route_tokens(const __grid_constant__ RouteArgs a) {
  constexpr int kOfLane = kMostExperts / 32;
  wait_for_inputs();
  const int lane = threadIdx.x;
  const float* logits = a.logits + static_cast<std::int64_t>(blockIdx.x) * a.n_experts;
  std::int32_t* ids = a.ids + static_cast<std::int64_t>(blockIdx.x) * a.n_active;
  float* weights = a.weights + static_cast<std::int64_t>(blockIdx.x) * a.n_active;
  // What is no number goes last, but is in the sum.
  float key[kOfLane], nans = 0;
#pragma unroll
  for (int i = 0; i < kOfLane; ++i) {
    const int e = i * 32 + lane;
    const float v = e < a.n_experts ? logits[e] : -INFINITY;
    key[i] = v == v ? v : -INFINITY;
    if (v != v) nans = v;
  }
  unsigned taken = 0;  // of the lane's
  float top = 0, all = 0, chosen = 0;
  static_assert(kOfLane <= 32);
  for (int n = 0; n < a.n_active; ++n) {
    float best = -INFINITY;
    int id = kMostExperts;  // the lowest of equals, even of the least
#pragma unroll
    for (int i = 0; i < kOfLane; ++i)
      if (!(taken >> i & 1) && i * 32 + lane < a.n_experts &&
          (key[i] > best || id == kMostExperts)) {
        best = key[i];
        id = i * 32 + lane;
      }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      const float other = __shfl_xor_sync(~0u, best, step);
      const int other_id = __shfl_xor_sync(~0u, id, step);
      const bool none = id == kMostExperts, is_none = other_id == kMostExperts;
      if (!is_none && (none || other > best || (other == best && other_id < id))) {
        best = other;
        id = other_id;
      }
    }
    if (id % 32 == lane) taken |= 1u << (id / 32);
    if (n == 0) {
      top = best;
#pragma unroll
      for (int i = 0; i < kOfLane; ++i)
        if (i * 32 + lane < a.n_experts) all += expf(key[i] - top);
      all += nans;
#pragma unroll
      for (int step = 16; step > 0; step /= 2) all += __shfl_xor_sync(~0u, all, step);
    }
    const float weight = expf(best - top);
    chosen += weight;
    if (lane != 0) continue;
    ids[n] = id;
    weights[n] = a.expert_scale ? weight * a.expert_scale[id] : weight;
  }
  __syncwarp();
  const float sum = a.normalize ? chosen + (all - all) : all;
  for (int n = lane; n < a.n_active; n += 32) weights[n] /= sum;
}

__global__ void sum_of_experts(const __grid_constant__ SumExpertsArgs a) {
  wait_for_inputs();
  const int k = static_cast<int>(blockIdx.x) * kThreads + threadIdx.x;
  if (k >= a.K) return;
  const std::int64_t token = blockIdx.y, at = token * a.K + k;
  float sum = a.residual ? a.residual[at] : 0.0f;
  for (int n = 0; n < a.n_active; ++n) {
    const std::int64_t pair = token * a.n_active + n;
    sum = fmaf(a.weights[pair], float_at(a.z, pair * a.K + k, a.type), sum);
  }
  a.y[at] = sum;
}

ExpertRows expert_rows_of_width(int bits) {
  switch (bits) {
    case 2:
      return expert_rows_2;
    case 3:
      return expert_rows_3;
    case 4:
      return expert_rows_4;
    case 5:
      return expert_rows_5;
    case 6:
      return expert_rows_6;
    default:
      return expert_rows_8;
  }
}

FewRowsProduct product_of(const MatrixView& w, int n_experts) {
  FewRowsProduct product{};
  product.w = static_cast<const std::uint8_t*>(w.weight);
  product.scales = w.scales;
  product.biases = w.biases;
  product.N = w.N / n_experts;
  return product;
}

bool is_affine(const MatrixView& w) {
  return w.quantized() && w.spec.mode == QuantMode::kAffine &&
         w.type != FloatType::kF32;
}

std::int64_t pairs_of(const ExpertsArgs& args) {
  return static_cast<std::int64_t>(args.T) * args.n_active;
}

}  // namespace

void route(const RouteArgs& args, const Launcher& launch) {
  if (args.T == 0) return;
  RouteArgs copy = args;
  void* arguments[] = {&copy};
  launch(reinterpret_cast<const void*>(&route_tokens),
         {static_cast<unsigned>(args.T), 1, 1, 32}, arguments);
}

void sum_experts(const SumExpertsArgs& args, const Launcher& launch) {
  SumExpertsArgs copy = args;
  void* arguments[] = {&copy};
  launch(reinterpret_cast<const void*>(&sum_of_experts),
         {static_cast<unsigned>((args.K + kThreads - 1) / kThreads),
          static_cast<unsigned>(args.T), 1, kThreads},
         arguments);
}

bool has_experts(const MatrixView& gate, const MatrixView& up, const MatrixView& down) {
  return is_affine(gate) && is_affine(up) && is_affine(down);
}

std::size_t experts_scratch_bytes(const ExpertsArgs& args) {
  const std::int64_t N = args.down.K, K = args.gate.K;
  return static_cast<std::size_t>(pairs_of(args) * (2 * N + K)) * sizeof(float);
}

void experts(const ExpertsArgs& args, void* scratch, const Launcher& launch) {
  if (args.T == 0) return;
  const int N = args.down.K, K = args.gate.K;
  const auto pairs = static_cast<int>(pairs_of(args));
  // Rows of 16 bytes' alignment: N and K are whole groups.
  float* const hidden = static_cast<float*>(scratch);
  float* const gated = hidden + std::int64_t{1} * pairs * N;
  float* const z = gated + std::int64_t{1} * pairs * N;
  const auto run = [&](const float* x, int pairs_of_row, const MatrixView& first,
                       const MatrixView* second, const float* gate, float* y) {
    ExpertRowsArgs rows{};
    rows.x = x;
    rows.ids = args.ids;
    rows.products[0] = product_of(first, args.n_experts);
    if (second) rows.products[1] = product_of(*second, args.n_experts);
    rows.glu = second != nullptr;
    rows.gated = gate;
    rows.gate = args.f;
    rows.y = y;
    rows.n_pairs = pairs;
    rows.pairs_of_row = pairs_of_row;
    rows.n_experts = args.n_experts;
    rows.K = first.K;
    rows.scale_type = first.type;
    rows.exact = args.activation == Activation::kExact;
    expert_rows_of_width(first.spec.bits)(rows, first.spec.group_size, launch);
  };
  if (args.gate.spec == args.up.spec && args.gate.type == args.up.type) {
    run(args.x, args.n_active, args.gate, &args.up, nullptr, hidden);
  } else {
    run(args.x, args.n_active, args.gate, nullptr, nullptr, gated);
    run(args.x, args.n_active, args.up, nullptr, gated, hidden);
  }
  run(hidden, 1, args.down, nullptr, nullptr, z);
  sum_experts({z, FloatType::kF32, args.weights, args.residual, args.y, args.T,
               args.n_active, K},
              launch);
}

}  // namespace optiq::kernels::cuda
