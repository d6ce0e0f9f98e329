// A block to a row of logits: its largest, or a draw as Sampler makes it. Sums of the
// whole row are taken in float by warps and in double from there on; what is near the
// largest is brought into shared memory, where it is sorted and weighed in double.
#include "optiq/kernels/sampling/sampling_cuda.h"

#include <cmath>

#include "optiq/kernels/cuda_device.cuh"
#include "optiq/kernels/sampling/logit_row.h"

namespace optiq::kernels::cuda {
namespace {

constexpr int kThreads = 1024, kWarps = kThreads / 32;
constexpr int kMost = 2048;  // candidates of a filtered draw, and blocks of a row
constexpr int kPart = 64;    // weights that one thread adds up

struct ChooseArgs {
  const float* logits;
  const RowDraw* draws;
  std::int32_t* ids;
  int width;
};

/// The larger of two, of equal ones the one of the lower id; what is no number is
/// larger than all.
struct Best {
  float value;
  int id;

  __device__ void meet(float other, int other_id) {
    const bool is_nan = other != other, am_nan = value != value;
    if (am_nan) return;
    if (is_nan || other > value || (other == value && other_id < id)) {
      value = other;
      id = other_id;
    }
  }
  __device__ void meet_warp() {
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
      meet(__shfl_xor_sync(~0u, value, step), __shfl_xor_sync(~0u, id, step));
  }
};

// Where a running sum of weights has passed a goal: at `index`, behind `before`.
struct Passed {
  int index;
  double before;
};

// Distances from the largest, in units of the temperature, within which a draw looks
// for its candidates: the first that is enough. What is behind the last weighs less
// than a draw's number can tell.
constexpr int kReaches = 7;
__device__ constexpr float reach_of(int i) {
  constexpr float kReach[kReaches] = {1, 2, 3, 5, 8, 13, 40};
  return kReach[i];
}

struct Shared {
  std::uint64_t keys[kMost];  // candidates, the likelier the larger
  double weights[kMost];
  double parts[kMost / kPart];
  Best best[kWarps];
  float sums[kReaches + 1][kWarps];  // of weights within a reach, and of all
  int counts[kReaches];              // of logits within a reach
  int n_candidates, n_kept;
  float threshold;
  Passed passed;
};

// Calls f(logit, id) for those of a thread, of which several are on their way at once.
template <class Function>
__device__ void for_logits(const float* row, int width, Function&& f) {
  constexpr int kAhead = 8;
  int i = threadIdx.x;
  for (; i + (kAhead - 1) * kThreads < width; i += kAhead * kThreads) {
    float values[kAhead];
#pragma unroll
    for (int n = 0; n < kAhead; ++n) values[n] = row[i + n * kThreads];
#pragma unroll
    for (int n = 0; n < kAhead; ++n) f(values[n], i + n * kThreads);
  }
  for (; i < width; i += kThreads) f(row[i], i);
}

__device__ Best largest_of(const float* row, int width, Shared& shared) {
  const int thread = threadIdx.x;
  Best best{-INFINITY, width};
  for_logits(row, width, [&](float value, int id) { best.meet(value, id); });
  best.meet_warp();
  if (thread % 32 == 0) shared.best[thread / 32] = best;
  __syncthreads();
  best = shared.best[thread % 32];
  best.meet_warp();
  return best;
}

__device__ double weight_of(float logit, float largest, float scale) {
  return exp((static_cast<double>(logit) - largest) * scale);
}

// The first of n shared weights with which their running sum is more than `goal`, or
// as much; n, behind the sum of all, if there is none.
template <bool or_equal>
__device__ Passed first_past(int n, double goal, Shared& shared) {
  const auto passes = [goal](double sum) {
    return or_equal ? sum >= goal : sum > goal;
  };
  const int parts = (n + kPart - 1) / kPart, thread = threadIdx.x;
  __syncthreads();
  if (thread < parts) {
    double sum = 0;
    for (int i = thread * kPart; i < min(n, (thread + 1) * kPart); ++i)
      sum += shared.weights[i];
    shared.parts[thread] = sum;
  }
  __syncthreads();
  if (thread == 0) {
    double sum = 0;
    int part = 0;
    while (part < parts && !passes(sum + shared.parts[part]))
      sum += shared.parts[part++];
    int i = min(n, part * kPart);
    while (i < n && !passes(sum + shared.weights[i])) sum += shared.weights[i++];
    shared.passed = {i, sum};
  }
  __syncthreads();
  return shared.passed;
}

__device__ double sum_of(int n, Shared& shared) {
  return first_past<false>(n, INFINITY, shared).before;
}

// From all tokens: the block that the draw falls in, then the token in it. -1 where
// rounding leaves a little behind the block.
__device__ int draw(const float* row, int width, const RowDraw& d, float largest,
                    Shared& shared) {
  const int blocks = (width + kLogitBlock - 1) / kLogitBlock;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (blocks > kMost) return -1;
  for (int block = warp; block < blocks; block += kWarps) {
    float sum = 0;
#pragma unroll
    for (int i = lane; i < kLogitBlock; i += 32)
      if (const int id = block * kLogitBlock + i; id < width)
        sum += expf((row[id] - largest) * d.scale);
    sum = warp_sum(sum);
    if (lane == 0) shared.weights[block] = sum;
  }
  const double total = sum_of(blocks, shared), goal = d.number * total;
  const Passed block = first_past<false>(blocks, goal, shared);
  if (block.index == blocks) return -1;
  const int first = block.index * kLogitBlock, n = min(kLogitBlock, width - first);
  __syncthreads();
  for (int i = threadIdx.x; i < n; i += kThreads)
    shared.weights[i] = weight_of(row[first + i], largest, d.scale);
  const int at = first_past<false>(n, goal - block.before, shared).index;
  return at == n ? -1 : first + at;
}

// Whether all tokens are weighed against top_p.
__device__ bool has_whole_mass(const RowDraw& d, int width) {
  return d.top_p < 1 && (d.top_k == 0 || d.top_k >= width);
}

// Finds how far from the largest the filters reach: shared.threshold, NaN if there are
// too many candidates. Gives the sum of all weights.
__device__ double find_threshold(const float* row, int width, const RowDraw& d,
                                 float largest, Shared& shared) {
  const bool whole_mass = has_whole_mass(d, width);
  // Past this min_p removes a token, and no other filter asks for it.
  const float furthest =
      d.min_p > 0 && (whole_mass || d.top_p >= 1) ? -logf(d.min_p) : INFINITY;
  const int thread = threadIdx.x;
  if (thread < kReaches) shared.counts[thread] = 0;
  __syncthreads();
  float sums[kReaches + 1] = {};
  int counts[kReaches] = {};
  for_logits(row, width, [&](float value, int) {
    const float distance = (largest - value) * d.scale, weight = expf(-distance);
    sums[kReaches] += weight;
#pragma unroll
    for (int i = 0; i < kReaches; ++i)
      if (distance <= fminf(reach_of(i), furthest)) {
        sums[i] += weight;
        ++counts[i];
      }
  });
#pragma unroll
  for (int i = 0; i <= kReaches; ++i) {
    sums[i] = warp_sum(sums[i]);
    if (thread % 32 == 0) shared.sums[i][thread / 32] = sums[i];
    if (i < kReaches && counts[i] > 0) atomicAdd(&shared.counts[i], counts[i]);
  }
  __syncthreads();
  const auto total = [&](int reach) {
    double sum = 0;
    for (int warp = 0; warp < kWarps; ++warp) sum += shared.sums[reach][warp];
    return sum;
  };
  const double mass = total(kReaches);
  if (thread == 0) {
    shared.threshold = NAN;
    for (int i = 0; i < kReaches; ++i) {
      if (i + 1 < kReaches && reach_of(i) < furthest &&
          !(d.top_k > 0 && shared.counts[i] >= d.top_k) &&
          !(whole_mass && total(i) >= d.top_p * mass))
        continue;
      // A little more, so that rounding of the threshold removes nothing.
      const float reach = fminf(reach_of(i), furthest);
      if (shared.counts[i] <= kMost)
        shared.threshold =
            largest - reach / d.scale * (1 + 1e-6f) - 1e-6f * fabsf(largest);
      break;
    }
    shared.n_candidates = 0;
  }
  __syncthreads();
  return mass;
}

// A logit's bits in the order of numbers, then ids, the lower the larger.
__device__ std::uint64_t key_of(float logit, int id) {
  const std::uint32_t bits = __float_as_uint(logit);
  const std::uint32_t ordered = bits & 1u << 31 ? ~bits : bits | 1u << 31;
  return static_cast<std::uint64_t>(ordered) << 32 | ~static_cast<std::uint32_t>(id);
}
__device__ float logit_of(std::uint64_t key) {
  const auto ordered = static_cast<std::uint32_t>(key >> 32);
  return __uint_as_float(ordered & 1u << 31 ? ordered ^ 1u << 31 : ~ordered);
}

// The largest of n keys first: a bitonic sort.
__device__ void sort_keys(int n, Shared& shared) {
  int all = 1;
  while (all < n) all *= 2;
  for (int i = n + threadIdx.x; i < all; i += kThreads) shared.keys[i] = 0;
  for (int size = 2; size <= all; size *= 2)
    for (int stride = size / 2; stride > 0; stride /= 2) {
      __syncthreads();
      for (int i = threadIdx.x; i < all / 2; i += kThreads) {
        const int low = 2 * i - i % stride, high = low + stride;
        const std::uint64_t a = shared.keys[low], b = shared.keys[high];
        if ((a < b) == ((low & size) == 0)) {
          shared.keys[low] = b;
          shared.keys[high] = a;
        }
      }
    }
  __syncthreads();
}

// From the tokens that pass the filters; -1 if they are too many.
__device__ int draw_filtered(const float* row, int width, const RowDraw& d,
                             float largest, Shared& shared) {
  const double mass = find_threshold(row, width, d, largest, shared);
  const float threshold = shared.threshold;
  if (threshold != threshold) return -1;
  for_logits(row, width, [&](float value, int id) {
    if (value < threshold) return;
    const int at = atomicAdd(&shared.n_candidates, 1);
    if (at < kMost) shared.keys[at] = key_of(value, id);
  });
  __syncthreads();
  int n = shared.n_candidates;
  if (n > kMost) return -1;
  sort_keys(n, shared);
  if (d.top_k > 0) n = min(n, d.top_k);
  const int thread = threadIdx.x;
  for (int i = thread; i < n; i += kThreads)
    shared.weights[i] = weight_of(logit_of(shared.keys[i]), largest, d.scale);
  const double whole = has_whole_mass(d, width) ? mass : sum_of(n, shared);
  // What min_p leaves: the first has weight one.
  if (thread == 0) shared.n_kept = 1;
  __syncthreads();
  const auto stays = [&](int i) {
    return shared.weights[i] >= d.min_p && shared.weights[i] > 0;
  };
  for (int i = thread + 1; i < n; i += kThreads)
    if (stays(i) && (i + 1 == n || !stays(i + 1))) shared.n_kept = i + 1;
  __syncthreads();
  n = shared.n_kept;
  double weight;
  if (d.top_p < 1) {
    const Passed kept = first_past<true>(n, d.top_p * whole, shared);
    weight = kept.before;
    if (kept.index < n) weight += shared.weights[kept.index];
    n = min(n, kept.index + 1);
  } else {
    weight = sum_of(n, shared);
  }
  const int at = first_past<false>(n, d.number * weight, shared).index;
  return static_cast<int>(~static_cast<std::uint32_t>(shared.keys[min(at, n - 1)]));
}

// A block a row.
__global__ void __launch_bounds__(kThreads)
    choose_in_row(const __grid_constant__ ChooseArgs a) {
  auto& shared = *reinterpret_cast<Shared*>(dynamic_shared());
  wait_for_inputs();
  const float* row = a.logits + static_cast<std::int64_t>(blockIdx.x) * a.width;
  const RowDraw d = a.draws[blockIdx.x];
  const Best best = largest_of(row, a.width, shared);
  const bool is_number = best.value - best.value == 0;  // neither infinite nor NaN
  const bool is_filtered =
      d.top_p < 1 || d.min_p > 0 || (d.top_k > 0 && d.top_k < a.width);
  const int id = !is_number     ? -1
                 : d.scale == 0 ? best.id
                 : is_filtered  ? draw_filtered(row, a.width, d, best.value, shared)
                                : draw(row, a.width, d, best.value, shared);
  if (threadIdx.x == 0) a.ids[blockIdx.x] = id;
}

}  // namespace

void choose_tokens(const float* logits, int rows, int width, const RowDraw* draws,
                   std::int32_t* ids, const Launcher& launch) {
  static_assert(kWarps == 32 && sizeof(Shared) <= 48 << 10 && kLogitBlock <= kMost);
  if (rows == 0) return;
  ChooseArgs args{logits, draws, ids, width};
  void* arguments[] = {&args};
  launch(reinterpret_cast<const void*>(&choose_in_row),
         {static_cast<unsigned>(rows), 1, 1, kThreads, sizeof(Shared)}, arguments);
}

}  // namespace optiq::kernels::cuda
