// Codes packed into 32-bit words, as MLX packs them.
//
// A row is one stream of bits: code k occupies bits [k b, (k + 1) b), counted from the
// lowest bit of the first little-endian word. Codes of 3, 5 and 6 bits therefore cross
// the borders of words, and a row of K codes takes K b / 32 words exactly.
#pragma once
#include <cstdint>
#include <span>

namespace optiq::quantize {

/// Packs codes, of which only the lowest `bits` bits are kept.
///
/// Requires  1 <= bits <= 8; codes.size() * bits == words.size() * 32.
/// Throws    std::invalid_argument.
void pack_codes(std::span<const std::uint8_t> codes, int bits,
                std::span<std::uint32_t> words);

/// The reverse of pack_codes, under the same conditions.
void unpack_codes(std::span<const std::uint32_t> words, int bits,
                  std::span<std::uint8_t> codes);

}  // namespace optiq::quantize
