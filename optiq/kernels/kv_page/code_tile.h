// Tiles of codes (kv_layout.h) as the columns of bytes that an integer dot product
// takes. Included by *_simd.cpp only.
#pragma once
#include "optiq/kernels/kv_page/kv_codebook.h"
#include "optiq/kernels/kv_page/kv_page_head.h"
#include "optiq/kernels/linear/bytes.h"

namespace optiq::kernels::OPTIQ_SIMD {

constexpr int kTileBytes = 8 * 64;               // unpacked: 8 columns
constexpr int kParts = 64 / (int)sizeof(Bytes);  // vectors of a column

/// What an unpacked byte is: a code (8 bits: see kSignedCodes) or a codebook's entry.
/// `middle` stands for the value 0 (or the bias).
struct CodeBytes {
  int middle;
  bool is_signed;
};
OPTIQ_INLINE CodeBytes code_bytes(const KvFormat& format) {
  if (format.kind == KvKind::kTurbo) return {kCodebookZero, false};
  if (format.bits == 8 && kSignedCodes<8>) return {0, true};
  return {1 << (format.bits - 1), false};
}

template <int kBits>
OPTIQ_INLINE Bytes codebook_bytes() {
  Bytes table{};
  for (int i = 0; i < (int)sizeof(Bytes); ++i)
    table[i] = (std::uint8_t)(kv_codebook(kBits).entries[i % 16] + kCodebookZero);
  return table;
}

/// Columns 2 kPair and 2 kPair + 1 of a part of a tile.
struct ColumnPair {
  Bytes even, odd;
};
template <int kBits, bool kTurbo, int kPair>
OPTIQ_INLINE ColumnPair unpack_pair(const std::uint8_t* p, Bytes table) {
  constexpr int kPlaces = 2 * (kPair % 2);  // a 2-bit plane's shift
  if constexpr (kBits == 8) {
    const std::uint8_t flip = kSignedCodes<8> ? 0x80 : 0;
    return {load_bytes(p + 128 * kPair) ^ flip,
            load_bytes(p + 128 * kPair + 64) ^ flip};
  } else if constexpr (kBits >= 4) {
    const Words low = (Words)load_bytes(p + 64 * kPair);
    const Bytes even = (Bytes)low & 15, odd = (Bytes)(low >> 4) & 15;
    if constexpr (kTurbo) return {lookup(table, even), lookup(table, odd)};
    if constexpr (kBits == 4) return {even, odd};
    if constexpr (kBits == 5) {
      const Words high = (Words)load_bytes(p + 256);
      return {even | ((Bytes)(high << (4 - kPair)) & 0x10),
              odd | ((Bytes)(high >> kPair) & 0x10)};
    }
    const Words high = (Words)load_bytes(p + 256 + 64 * (kPair / 2));
    return {even | ((Bytes)(high << (4 - kPlaces)) & 0x30),
            odd | ((Bytes)(high >> kPlaces) & 0x30)};
  } else {
    // The two codes of each byte as its halves.
    Bytes both = (Bytes)((Words)load_bytes(p + 64 * (kPair / 2)) >> kPlaces) & 0x33;
    if constexpr (kBits == 3) {
      const Words high = (Words)load_bytes(p + 128);
      constexpr int kUp = kPair < 2 ? 2 - kPair : 0, kDown = kPair < 2 ? 0 : kPair - 2;
      both |= (Bytes)(high << kUp >> kDown) & 0x44;
    }
    const Bytes odd = (Bytes)((Words)both >> 4);
#if defined(__AVX2__)
    // A byte shuffle looks at the low four bits, as the top bit is clear.
    if constexpr (kTurbo) return {lookup(table, both), lookup(table, odd)};
#endif
    const Bytes low = both & 15, high = odd & 15;
    if constexpr (kTurbo) return {lookup(table, low), lookup(table, high)};
    return {low, high};
  }
}

template <int kBits, bool kTurbo, int kPair = 0>
OPTIQ_INLINE void unpack_part(const std::uint8_t* p, std::uint8_t* columns,
                              Bytes table) {
  const ColumnPair pair = unpack_pair<kBits, kTurbo, kPair>(p, table);
  store_bytes(columns + 128 * kPair, pair.even);
  store_bytes(columns + 128 * kPair + 64, pair.odd);
  if constexpr (kPair < 3) unpack_part<kBits, kTurbo, kPair + 1>(p, columns, table);
}

template <int kBits, bool kTurbo>
static void unpack_tiles_of(const std::uint8_t* p, int tiles, std::int64_t ahead,
                            std::uint8_t* columns) {
  Bytes table{};
  if constexpr (kTurbo) table = codebook_bytes<kBits>();
  for (int tile = 0; tile < tiles; ++tile, p += 64 * kBits, columns += kTileBytes) {
    if (ahead)
#pragma GCC unroll 8
      for (int i = 0; i < kBits; ++i) __builtin_prefetch(p + ahead + 64 * i, 0, 2);
#pragma GCC unroll 4
    for (int part = 0; part < kParts; ++part) {
      const int at = part * (int)sizeof(Bytes);
      unpack_part<kBits, kTurbo>(p + at, columns + at, table);
    }
  }
}

/// The columns of tiles that lie one after another; asks for what lies `ahead` bytes
/// behind them, where that is not 0. Gives where the columns are: in `columns`, or
/// where the codes lie if they are columns already.
OPTIQ_INLINE const std::uint8_t* unpack_tiles(const KvFormat& format,
                                              const std::byte* codes, int tiles,
                                              std::int64_t ahead,
                                              std::uint8_t* columns) {
  const std::uint8_t* p = (const std::uint8_t*)codes;
  const bool turbo = format.kind == KvKind::kTurbo;
  switch (format.bits) {
    case 2:
      turbo ? unpack_tiles_of<2, true>(p, tiles, ahead, columns)
            : unpack_tiles_of<2, false>(p, tiles, ahead, columns);
      break;
    case 3:
      turbo ? unpack_tiles_of<3, true>(p, tiles, ahead, columns)
            : unpack_tiles_of<3, false>(p, tiles, ahead, columns);
      break;
    case 4:
      turbo ? unpack_tiles_of<4, true>(p, tiles, ahead, columns)
            : unpack_tiles_of<4, false>(p, tiles, ahead, columns);
      break;
    case 5:
      unpack_tiles_of<5, false>(p, tiles, ahead, columns);
      break;
    case 6:
      unpack_tiles_of<6, false>(p, tiles, ahead, columns);
      break;
    default:
      if constexpr (kSignedCodes<8>) {
        unpack_tiles_of<8, false>(p, tiles, ahead, columns);
        break;
      }
      if (ahead)
        for (int i = 0; i < tiles * kTileBytes; i += 64)
          __builtin_prefetch(p + ahead + i, 0, 2);
      return p;
  }
  return columns;
}

}  // namespace optiq::kernels::OPTIQ_SIMD
