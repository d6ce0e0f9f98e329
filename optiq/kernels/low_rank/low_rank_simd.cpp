// Both halves keep their sums in registers: the inner one sixteen chains for each of a
// few rows and ranks, the outer one a strip of columns for a few rows while it walks
// the ranks. Bound by the bytes of a and b where rows are few.
#include "optiq/kernels/low_rank/low_rank.h"
#include "optiq/kernels/simd_vector.h"

namespace optiq::kernels::OPTIQ_SIMD {
namespace {

constexpr int kChains = 16;
constexpr int kParts = kChains / kLanes;  // vectors of one sum
constexpr int kRows = 2;
constexpr int kRanks = kParts == 1 ? 4 : 2;

struct F32 {
  using Value = float;
  OPTIQ_INLINE Vec at(const float* p) { return load(p); }
};
struct F16 {
  using Value = std::uint16_t;
  OPTIQ_INLINE Vec at(const std::uint16_t* p) { return load_f16(p); }
};
struct BF16 {
  using Value = std::uint16_t;
  OPTIQ_INLINE Vec at(const std::uint16_t* p) { return load_bf16(p); }
};

template <class T>
OPTIQ_INLINE T* row_at(T* base, std::int64_t row, std::int64_t width) {
  return base + row * width;
}

// h[m][r] for nm rows and nr ranks.
template <class Type, int nm, int nr>
OPTIQ_INLINE void inner_tile(const float* x, const typename Type::Value* a, int K,
                             float scale, float* h, int rank) {
  Vec sum[nm][nr][kParts] = {};
  const auto step = [&](const float* const* xs, const typename Type::Value* const* as,
                        int k) __attribute__((always_inline)) {
    for (int p = 0; p < kParts; ++p) {
      Vec xv[nm];
      for (int i = 0; i < nm; ++i) xv[i] = load(xs[i] + k + p * kLanes);
      for (int j = 0; j < nr; ++j) {
        const Vec av = Type::at(as[j] + k + p * kLanes);
        for (int i = 0; i < nm; ++i)
          sum[i][j][p] = multiply_add(xv[i], av, sum[i][j][p]);
      }
    }
  };
  const float* xs[nm];
  const typename Type::Value* as[nr];
  for (int i = 0; i < nm; ++i) xs[i] = row_at(x, i, K);
  for (int j = 0; j < nr; ++j) as[j] = row_at(a, j, K);
  int k = 0;
  for (; k + kChains <= K; k += kChains) step(xs, as, k);
  if (k < K) {  // the last ones, with zeros behind them
    float x_rest[nm][kChains] = {};
    typename Type::Value a_rest[nr][kChains] = {};
    const float* x_ends[nm];
    const typename Type::Value* a_ends[nr];
    for (int i = 0; i < nm; ++i) {
      for (int c = 0; k + c < K; ++c) x_rest[i][c] = xs[i][k + c];
      x_ends[i] = x_rest[i];
    }
    for (int j = 0; j < nr; ++j) {
      for (int c = 0; k + c < K; ++c) a_rest[j][c] = as[j][k + c];
      a_ends[j] = a_rest[j];
    }
    step(x_ends, a_ends, 0);
  }
  for (int i = 0; i < nm; ++i)
    for (int j = 0; j < nr; ++j) {
      float total = 0;
      for (int p = 0; p < kParts; ++p)
        for (int lane = 0; lane < kLanes; ++lane) total += sum[i][j][p][lane];
      h[i * rank + j] = scale * total;
    }
}

template <class Type>
OPTIQ_INLINE void inner(const LowRankArgs& args, const LowRankFactors& f, int begin,
                        int end, float* h) {
  const auto* a = static_cast<const typename Type::Value*>(f.a);
  for (int r = 0; r < f.rank;) {
    const auto* ar = row_at(a, r, args.K);
    const bool several = r + kRanks <= f.rank;
    for (int m = begin; m < end;) {
      const float* x = row_at(args.x, m, args.K);
      float* to = h + (m - begin) * f.rank + r;
      const bool pair = m + kRows <= end;
      if (pair && several)
        inner_tile<Type, kRows, kRanks>(x, ar, args.K, f.scale, to, f.rank);
      else if (pair)
        inner_tile<Type, kRows, 1>(x, ar, args.K, f.scale, to, f.rank);
      else if (several)
        inner_tile<Type, 1, kRanks>(x, ar, args.K, f.scale, to, f.rank);
      else
        inner_tile<Type, 1, 1>(x, ar, args.K, f.scale, to, f.rank);
      m += pair ? kRows : 1;
    }
    r += several ? kRanks : 1;
  }
}

// nm rows in a strip of kLanes columns: z, then what it is added to. A value of b meets
// all of them.
template <class Type, int nm>
OPTIQ_INLINE void strip(const LowRankArgs& args, const LowRankFactors* f,
                        const float* h, const typename Type::Value* b, int m, int n) {
  const std::int64_t N = args.N;
  Vec z[nm] = {};
  for (int r = 0; r < f->rank; ++r) {
    const Vec bv = Type::at(b + r * N);
    for (int i = 0; i < nm; ++i)
      z[i] = multiply_add(broadcast(h[i * f->rank + r]), bv, z[i]);
  }
  const Vec bias = f->gain && args.bias ? load(args.bias + n) : Vec{};
  for (int i = 0; i < nm; ++i) {
    const std::int64_t at = (m + i) * N + n;
    const Vec y = load(args.y + at);
    Vec value =
        f->gain ? multiply_add(load(f->gain + n), y - bias + z[i], bias) : y + z[i];
    if (args.residual) value += load(args.residual + at);
    store(args.out + at, value);
  }
}

// The same for a block of rows; columns behind the last strip one by one.
template <class Type>
OPTIQ_INLINE void outer(const LowRankArgs& args, const LowRankFactors* f, int begin,
                        int end, const float* h, int n_begin, int n_end) {
  const std::int64_t N = args.N;
  const auto* b = static_cast<const typename Type::Value*>(f->b);
  int n = n_begin;
  for (; n + kLanes <= n_end; n += kLanes) {
    int m = begin;
    const auto rows = [&](int row) { return h + (row - begin) * f->rank; };
    for (; m + 4 <= end; m += 4) strip<Type, 4>(args, f, rows(m), b + n, m, n);
    for (; m + 2 <= end; m += 2) strip<Type, 2>(args, f, rows(m), b + n, m, n);
    for (; m < end; ++m) strip<Type, 1>(args, f, rows(m), b + n, m, n);
  }
  for (; n < n_end; ++n)
    for (int m = begin; m < end; ++m) {
      const std::int64_t at = m * N + n;
      float z = 0;
      for (int r = 0; r < f->rank; ++r) {
        typename Type::Value padded[kLanes] = {b[r * N + n]};
        z = __builtin_fmaf(h[(m - begin) * f->rank + r], Type::at(padded)[0], z);
      }
      float value = args.y[at];
      if (f->gain) {
        const float bias = args.bias ? args.bias[n] : 0;
        value = __builtin_fmaf(f->gain[n], value - bias + z, bias);
      } else {
        value += z;
      }
      if (args.residual) value += args.residual[at];
      args.out[at] = value;
    }
}

}  // namespace

void low_rank_inner(const LowRankArgs& args, const LowRankFactors& f, int begin,
                    int end, float* h) {
  if (f.a_type == FloatType::kF32)
    inner<F32>(args, f, begin, end, h);
  else if (f.a_type == FloatType::kF16)
    inner<F16>(args, f, begin, end, h);
  else
    inner<BF16>(args, f, begin, end, h);
}

void low_rank_outer(const LowRankArgs& args, const LowRankFactors* f, int begin,
                    int end, const float* h, int n_begin, int n_end) {
  if (!f) {
    for (int m = begin; m < end; ++m)
      for (int n = n_begin; n < n_end; ++n) {
        const std::int64_t at = (std::int64_t)m * args.N + n;
        const float y = args.y[at];
        args.out[at] = args.residual ? y + args.residual[at] : y;
      }
    return;
  }
  if (f->b_type == FloatType::kF32)
    outer<F32>(args, f, begin, end, h, n_begin, n_end);
  else if (f->b_type == FloatType::kF16)
    outer<F16>(args, f, begin, end, h, n_begin, n_end);
  else
    outer<BF16>(args, f, begin, end, h, n_begin, n_end);
}

}  // namespace optiq::kernels::OPTIQ_SIMD
