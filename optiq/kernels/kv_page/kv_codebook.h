// The codebooks of turbo formats: whole numbers, for they meet int8 in dot products.
//
// They are the Lloyd-Max centroids of N(0, 1) scaled by `unit` and rounded, with the
// unit that costs least; mean squared error 0.36338, 0.11748, 0.03456, 0.00952 for 1
// to 4 bits, where exact centroids have 0.36338, 0.11748, 0.03455, 0.00950. Stored with
// 63 added, they are bytes up to 126: two of them times int8 stay within 16 bits.
#pragma once
#include <cstdint>

namespace optiq {

constexpr int kCodebookZero = 63;

struct KvCodebook {
  float unit;               // entries of a standard deviation
  std::int8_t entries[16];  // minus kCodebookZero; repeats from 2^bits on
};

constexpr KvCodebook kKvCodebooks[] = {
    {77.70546f,
     {-62, 62, -62, 62, -62, 62, -62, 62, -62, 62, -62, 62, -62, 62, -62, 62}},
    {39.72616f,
     {-60, -18, 18, 60, -60, -18, 18, 60, -60, -18, 18, 60, -60, -18, 18, 60}},
    {28.87092f, {-62, -39, -22, -7, 7, 22, 39, 62, -62, -39, -22, -7, 7, 22, 39, 62}},
    {22.31953f, {-61, -46, -36, -28, -21, -15, -9, -3, 3, 9, 15, 21, 28, 36, 46, 61}},
};

/// Of 1 to 4 bits.
constexpr const KvCodebook& kv_codebook(int bits) { return kKvCodebooks[bits - 1]; }

}  // namespace optiq
