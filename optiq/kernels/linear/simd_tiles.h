// The tile registers of AMX, by number. Included by *_amx.cpp only.
//
// A tile has up to 16 rows of up to 64 bytes; the shape of each is set by use_tiles()
// on the thread that uses them, and stays until release_tiles(). While they are in use
// the system saves 8 KB more at each switch of threads.
//
// OPTIQ_MODEL_TILES replaces the instructions by loops that do the same, for tests on
// machines without them.
#pragma once
#include "optiq/kernels/simd_vector.h"

namespace optiq::kernels::OPTIQ_SIMD {

constexpr int kTiles = 8;

/// The 64 bytes that the processor reads a configuration from.
struct alignas(64) TileShapes {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};
};

#if !defined(OPTIQ_MODEL_TILES)

OPTIQ_INLINE void use_tiles(const TileShapes& shapes) {
  __asm__ volatile("ldtilecfg %0" ::"m"(shapes));
}

OPTIQ_INLINE void release_tiles() { __asm__ volatile("tilerelease"); }

/// Rows `stride` bytes apart. All memory counts as read, so that no store of before is
/// put off past it.
template <int kTile>
OPTIQ_INLINE void load_tile(const void* from, std::int64_t stride) {
  __asm__ volatile("tileloadd (%0,%1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(kTile)
                   : "memory");
}

template <int kTile>
OPTIQ_INLINE void store_tile(void* to, std::int64_t stride) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1)" ::"r"(to), "r"(stride), "i"(kTile)
                   : "memory");
}

template <int kTile>
OPTIQ_INLINE void zero_tile() {
  __asm__ volatile("tilezero %%tmm%c0" ::"i"(kTile));
}

/// sum[i][j] += sum over k of a[i][k] b[k / 4][4 j + k % 4], bytes of a unsigned, of b
/// signed; exact in 32 bits.
template <int kSum, int kA, int kB>
OPTIQ_INLINE void multiply_tiles() {
  __asm__ volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSum), "i"(kA),
                   "i"(kB));
}

#else

static thread_local struct {
  TileShapes shapes;
  std::uint8_t bytes[kTiles][16][64];
} tile_model;

OPTIQ_INLINE void use_tiles(const TileShapes& shapes) { tile_model.shapes = shapes; }

OPTIQ_INLINE void release_tiles() { tile_model.shapes = {}; }

template <int kTile>
OPTIQ_INLINE void load_tile(const void* from, std::int64_t stride) {
  for (int i = 0; i < tile_model.shapes.rows[kTile]; ++i)
    __builtin_memcpy(tile_model.bytes[kTile][i], (const char*)from + i * stride,
                     tile_model.shapes.row_bytes[kTile]);
}

template <int kTile>
OPTIQ_INLINE void store_tile(void* to, std::int64_t stride) {
  for (int i = 0; i < tile_model.shapes.rows[kTile]; ++i)
    __builtin_memcpy((char*)to + i * stride, tile_model.bytes[kTile][i],
                     tile_model.shapes.row_bytes[kTile]);
}

template <int kTile>
OPTIQ_INLINE void zero_tile() {
  __builtin_memset(tile_model.bytes[kTile], 0, sizeof tile_model.bytes[kTile]);
}

template <int kSum, int kA, int kB>
OPTIQ_INLINE void multiply_tiles() {
  const TileShapes& shapes = tile_model.shapes;
  for (int i = 0; i < shapes.rows[kSum]; ++i)
    for (int j = 0; j < shapes.row_bytes[kSum] / 4; ++j) {
      std::int32_t sum;
      __builtin_memcpy(&sum, &tile_model.bytes[kSum][i][4 * j], 4);
      for (int k = 0; k < shapes.row_bytes[kA]; ++k)
        sum += tile_model.bytes[kA][i][k] *
               (std::int8_t)tile_model.bytes[kB][k / 4][4 * j + k % 4];
      __builtin_memcpy(&tile_model.bytes[kSum][i][4 * j], &sum, 4);
    }
}

#endif

}  // namespace optiq::kernels::OPTIQ_SIMD
