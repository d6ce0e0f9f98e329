// One row at a time: activations rounded or rearranged, dequantized rows.
//
// Rounding takes one pass for the largest |x| of a group, compared as integers so that
// a NaN counts as the largest, and one for the codes; small beside any product.
#include "optiq/kernels/linear/exact_weights.h"
#include "optiq/kernels/linear/parts.h"

namespace optiq::kernels::OPTIQ_SIMD {
namespace {

typedef std::uint8_t Block __attribute__((vector_size(32)));

struct Order {
  Block index;
};

OPTIQ_INLINE Order order_of(int bits) {
  Order order{};
  for (int i = 0; i < 32; ++i) order.index[i] = (std::uint8_t)code_at(bits, i);
  return order;
}

// The rounded codes of 32 values, and their sum.
OPTIQ_INLINE std::int32_t round_block(const float* x, float inverse, Block& codes) {
  alignas(64) std::int32_t whole[32];
  VecInt sum{};
  for (int i = 0; i < 32; i += kLanes) {
    const VecInt q = to_int(round_to_nearest(load(x + i) * inverse));
    sum += q;
    __builtin_memcpy(whole + i, &q, sizeof q);
  }
  for (int i = 0; i < 32; ++i) codes[i] = (std::uint8_t)whole[i];
  std::int32_t total = 0;
  for (int i = 0; i < kLanes; ++i) total += sum[i];
  return total;
}

}  // namespace

void round_row(const float* x, const InputRows& rows, int m) {
  const int group_size = rows.group_size, blocks = group_size / 32;
  const int real_groups = rows.K / group_size;
  std::int8_t* codes = rows.codes + m * rows.stride;
  const int together = rows.together;
  const std::int64_t at =
      (std::int64_t)(m / together) * rows.groups * together + m % together;
  const Order order = order_of(rows.bits);
  // The halves of a block lie 16 bytes apart for int8_many, and each in its lane of a
  // pair of vectors for int8_few.
  const int lanes = rows.few ? kBlocks : 1;
  for (int g = 0; g < rows.groups; ++g) {
    std::int32_t largest = 0;
    const float* v = x + (std::int64_t)g * group_size;
    const bool real = g < real_groups;
    if (real) {
      VecInt most{};
      for (int i = 0; i < group_size; i += kLanes) {
        const VecInt bits = (VecInt)load(v + i) & 0x7fffffff;
        most = bits > most ? bits : most;
      }
      for (int i = 0; i < kLanes; ++i) largest = most[i] > largest ? most[i] : largest;
    }
    float largest_value;
    __builtin_memcpy(&largest_value, &largest, 4);
    const bool finite = largest < 0x7f800000;
    const bool zero = !finite || largest_value < kSmallestStep;
    const float inverse = zero ? 0 : 127 / largest_value;
    const int place = rows.few ? g : chain_position(g, rows.groups);
    std::int32_t sum = 0;
    for (int b = 0; b < blocks; ++b) {
      Block q{};
      if (!zero) sum += round_block(v + 32 * b, inverse, q);
      const Block put = __builtin_shuffle(q, order.index);
      const int block = place * blocks + b;
      std::int8_t* to =
          codes + (std::int64_t)(block / lanes) * 32 * lanes + block % lanes * 16;
      __builtin_memcpy(to, &put, 16);
      __builtin_memcpy(to + 16 * lanes, (const char*)&put + 16, 16);
    }
    const float step = !finite ? __builtin_nanf("") : zero ? 0 : largest_value / 127;
    const std::int64_t to = at + (std::int64_t)place * together;
    rows.steps[to] = step;
    rows.whole_sums[to] = sum;
    rows.sums[to] = step * (float)sum;
  }
}

namespace {

// Columns [begin, begin + columns) of x in the order of the format, zeros past K.
void order_columns(const float* x, const InputRows& rows, std::int64_t begin,
                   int columns, float* to) {
  std::int32_t order[32];
  for (int i = 0; i < 32; ++i) order[i] = code_at(rows.bits, i);
  for (int c = 0; c < columns; c += 32) {
    const float* block = x + begin + c;
    const std::int64_t left = rows.K - begin - c;
    for (int i = 0; i < 32; ++i) to[c + i] = order[i] < left ? block[order[i]] : 0.0f;
  }
}

// [step][chain] becomes [chain][step].
void turn(const float* from, int steps, float* to) {
  int step = 0;
  for (; step + kLanes <= steps; step += kLanes)
    for (int chain = 0; chain < kExactChains; chain += kLanes) {
      VecInt tile[kLanes];
      for (int i = 0; i < kLanes; ++i)
        tile[i] = (VecInt)load(from + (step + i) * kExactChains + chain);
      transpose(tile);
      for (int i = 0; i < kLanes; ++i)
        store(to + (chain + i) * steps + step, (Vec)tile[i]);
    }
  for (; step < steps; ++step)
    for (int chain = 0; chain < kExactChains; ++chain)
      to[chain * steps + step] = from[step * kExactChains + chain];
}

}  // namespace

// kExact for many rows of x: [block of 1024][chain][column / 16].
void arrange_row(const float* x, const InputRows& rows, int m) {
  float* to = rows.values + m * rows.stride;
  for (std::int64_t begin = 0; begin < rows.stride; begin += kExactBlock) {
    const std::int64_t left = rows.stride - begin;
    const int columns = (int)(left < kExactBlock ? left : kExactBlock);
    if (rows.few) {
      order_columns(x, rows, begin, columns, to + begin);
      continue;
    }
    alignas(64) float ordered[kExactBlock];
    order_columns(x, rows, begin, columns, ordered);
    turn(ordered, columns / kExactChains, to + begin);
  }
}

void dequantize_row(const MatrixView& w, std::int64_t n, float* y) {
  with_row_type(w, [&](auto* type) {
    const auto row = RowOf<decltype(type)>::of(w, n);
    const int bits = w.quantized() ? w.spec.bits : 0;
    std::int32_t order[32];
    for (int i = 0; i < 32; ++i) order[i] = code_at(bits, i);
    for (std::int64_t k = 0; k < w.K; k += kChunk) {
      Vec values[8];
      alignas(64) float piece[kChunk];
      if (k + kChunk <= w.K)
        row.chunk(k, values);
      else
        row.rest(k, w.K, values);
      for (int i = 0; i < 8; ++i) store(piece + i * kLanes, values[i]);
      const std::int64_t left = w.K - k;
      const int n_values = (int)(left < kChunk ? left : kChunk);
      if (bits == 0)
        __builtin_memcpy(y + k, piece, 4 * (std::size_t)n_values);
      else
        for (int i = 0; i < n_values; ++i)
          y[k + i / 32 * 32 + order[i % 32]] = piece[i];
    }
  });
}

}  // namespace optiq::kernels::OPTIQ_SIMD
