#include "optiq/checkpoint/packed_matrix.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "optiq/base/parallel.h"

namespace optiq::checkpoint {
namespace {

// Where AWQ keeps column i of eight, in nibbles of a word.
constexpr std::array<int, 8> kAwqNibble{0, 4, 1, 5, 2, 6, 3, 7};

// A cache line of words: what a transposing thread reads at once.
constexpr std::int64_t kRows = 16;

std::uint32_t word_at(std::span<const std::byte> bytes, std::int64_t index) {
  std::uint32_t word;
  std::memcpy(&word, bytes.data() + 4 * index, 4);
  return word;
}

// Code `index` of a stream of bits whose word w is words[w x stride + first].
std::uint32_t code_at(std::span<const std::byte> words, std::int64_t first,
                      std::int64_t stride, std::int64_t index, int bits) {
  const std::int64_t bit = index * bits, word = bit / 32;
  const int shift = static_cast<int>(bit % 32);
  std::uint32_t code = word_at(words, word * stride + first) >> shift;
  if (shift + bits > 32)
    code |= word_at(words, (word + 1) * stride + first) << (32 - shift);
  return code & ((1u << bits) - 1);
}

void store_float(std::byte* to, std::int64_t index, FloatType type, float value) {
  if (type == FloatType::kF32) {
    std::memcpy(to + 4 * index, &value, 4);
    return;
  }
  const std::uint16_t bits =
      type == FloatType::kF16 ? float_to_f16(value) : float_to_bf16(value);
  std::memcpy(to + 2 * index, &bits, 2);
}

// f(begin, end) for blocks of rows, on several threads.
template <class F>
void for_rows(std::int64_t N, F&& f) {
  parallel_ranges(static_cast<std::size_t>(N), kRows,
                  [&](std::size_t begin, std::size_t end) {
                    f(static_cast<std::int64_t>(begin), static_cast<std::int64_t>(end));
                  });
}

}  // namespace

PackedMatrix::PackedMatrix(const PackedConfig& config, PackedShape shape,
                           FloatType scale_type, PackedBytes bytes)
    : config_(config), shape_(shape), scale_type_(scale_type), bytes_(bytes) {}

float PackedMatrix::scale(std::int64_t n, std::int64_t g) const {
  const std::int64_t at =
      config_.form == PackedForm::kCompressed ? n * shape_.G + g : g * shape_.N + n;
  return load_float(bytes_.scales.data(), at, scale_type_);
}

int PackedMatrix::zero(std::int64_t n, std::int64_t g) const {
  const int bits = config_.spec.bits;
  if (bytes_.zeros.empty()) return 1 << (bits - 1);
  const std::int64_t row_words = (shape_.N * bits + 31) / 32;
  switch (config_.form) {
    case PackedForm::kGptq: {
      const std::uint32_t stored = code_at(bytes_.zeros, g * row_words, 1, n, bits);
      // The sum wraps: a zero point of 0 is stored as all ones.
      return static_cast<int>((stored + config_.zero_offset) & ((1u << bits) - 1));
    }
    case PackedForm::kAwq:
      return static_cast<int>(
          word_at(bytes_.zeros, g * row_words + n / 8) >> (4 * kAwqNibble[n % 8]) & 15);
    case PackedForm::kCompressed:
      break;
  }
  return static_cast<int>(code_at(bytes_.zeros, g, shape_.G, n, bits));
}

std::int64_t PackedMatrix::group_of(std::int64_t k) const {
  if (!bytes_.order.empty()) return word_at(bytes_.order, k);
  return k / (shape_.K / shape_.G);
}

bool PackedMatrix::groups_in_range() const {
  for (std::int64_t k = 0; k < shape_.K; ++k)
    if (group_of(k) >= shape_.G) return false;
  return true;
}

bool PackedMatrix::groups_are_neighbours() const {
  for (std::int64_t k = 0; k < shape_.K; ++k)
    if (group_of(k) != k / (shape_.K / shape_.G)) return false;
  return true;
}

void PackedMatrix::write_codes(std::span<std::uint32_t> words) const {
  const std::int64_t N = shape_.N, row_words = shape_.K * config_.spec.bits / 32;
  if (config_.form == PackedForm::kCompressed) {
    std::memcpy(words.data(), bytes_.codes.data(), 4 * words.size());
    return;
  }
  for_rows(N, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t w = 0; w < row_words; ++w)
      for (std::int64_t n = begin; n < end; ++n) {
        std::uint32_t word = 0;
        if (config_.form == PackedForm::kGptq)
          word = word_at(bytes_.codes, w * N + n);
        else
          for (int i = 0; i < 8; ++i)
            word |= (word_at(bytes_.codes, (8 * w + i) * (N / 8) + n / 8) >>
                         (4 * kAwqNibble[n % 8]) &
                     15)
                    << (4 * i);
        words[n * row_words + w] = word;
      }
  });
}

void PackedMatrix::write_scales(std::span<std::byte> values) const {
  for_rows(shape_.N, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n)
      for (std::int64_t g = 0; g < shape_.G; ++g)
        store_float(values.data(), n * shape_.G + g, scale_type_, scale(n, g));
  });
}

void PackedMatrix::write_biases(std::span<std::byte> values) const {
  for_rows(shape_.N, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n)
      for (std::int64_t g = 0; g < shape_.G; ++g)
        store_float(values.data(), n * shape_.G + g, scale_type_,
                    -scale(n, g) * static_cast<float>(zero(n, g)));
  });
}

void PackedMatrix::write_values(std::span<std::byte> values) const {
  const std::int64_t K = shape_.K, row_words = K * config_.spec.bits / 32;
  std::vector<std::uint32_t> words(static_cast<std::size_t>(shape_.N * row_words));
  write_codes(words);
  const auto codes = std::as_bytes(std::span<const std::uint32_t>(words));
  for_rows(shape_.N, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n)
      for (std::int64_t k = 0; k < K; ++k) {
        const std::int64_t g = group_of(k);
        const auto code =
            static_cast<int>(code_at(codes, n * row_words, 1, k, config_.spec.bits));
        store_float(values.data(), n * K + k, scale_type_,
                    scale(n, g) * static_cast<float>(code - zero(n, g)));
      }
  });
}

}  // namespace optiq::checkpoint
