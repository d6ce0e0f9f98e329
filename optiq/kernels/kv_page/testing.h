// Pages for tests: guarded, so that a touch behind a page ends the program, and filled
// with what is NaN as a float, a scale, or a bias.
#pragma once
#include <vector>

#include "optiq/kernels/guarded.h"
#include "optiq/kernels/kv_page/kv_page.h"
#include "optiq/kernels/kv_page/kv_transform.h"
#include "optiq/kernels/testing.h"

namespace optiq::testing {

/// Keys and values for tests: normals, keys with a mean of their own in each channel.
struct KvData {
  KvData(int tokens, int n_kv_heads, int head_dim, std::uint32_t seed,
         std::uint32_t mean_seed = 11)
      : tokens(tokens), n_kv_heads(n_kv_heads), head_dim(head_dim) {
    const auto width = static_cast<std::size_t>(n_kv_heads * head_dim);
    k = random_floats(static_cast<std::size_t>(tokens) * width, seed);
    v = random_floats(k.size(), seed + 1);
    mean = random_floats(width, mean_seed);
    for (std::size_t i = 0; i < k.size(); ++i) k[i] += mean[i % width];
  }
  kernels::KvRows rows(int first, int count) const {
    const std::int64_t width = static_cast<std::int64_t>(n_kv_heads) * head_dim;
    return {k.data() + first * width,
            width,
            head_dim,
            v.data() + first * width,
            width,
            head_dim,
            first,
            count};
  }

  int tokens, n_kv_heads, head_dim;
  std::vector<float> k, v, mean;
};

/// What PagedSequence takes for the size of a channel where it scales them.
inline float channel_size(float mean) { return std::exp(mean / 4); }

/// A layer's formats, as far as values can be in theirs, and what its vectors pass.
struct KvKindOfLayer {
  KvFormat k, v;
  bool rotated = false, centred = false, scaled = false;
};

/// The pages of one sequence of one layer.
class PagedSequence {
 public:
  PagedSequence(int n_kv_heads, int head_dim, const KvKindOfLayer& kind,
                int float_pages, int tokens, const std::vector<float>& mean,
                std::uint64_t seed = 7)
      : coded_(make_kv_layout(n_kv_heads, head_dim, kind.k, format_of_values(kind.v))),
        float_(make_kv_layout(n_kv_heads, head_dim, kv_float(FloatType::kF16),
                              kv_float(FloatType::kF32))),
        signs_(rotation_signs(head_dim, seed)),
        projection_(rotation_signs(head_dim, ~seed)),
        mean_(mean) {
    for (int i = 0; i * kPageTokens < tokens; ++i) {
      const KvLayout& layout = i < float_pages ? float_ : coded_;
      owned_.emplace_back(static_cast<std::size_t>(layout.bytes() + kOffset),
                          std::byte{0xff});
      pointers_.push_back(owned_.back().data());
    }
    if (kind.rotated) transform_.k_signs = transform_.v_signs = signs_.data();
    transform_.k_residual_signs = projection_.data();
    if (kind.centred) transform_.k_mean = mean_.data();
    if (kind.scaled) {
      for (std::size_t i = 0; i < mean_.size(); ++i) {
        scale_.push_back(channel_size(mean_[i]));
        inverse_scale_.push_back(1 / scale_.back());
      }
      transform_.k_scale = transform_.sum_scale = scale_.data();
      transform_.q_scale = transform_.v_scale = inverse_scale_.data();
    }
    pages.float_layout = &float_;
    pages.coded_layout = &coded_;
    pages.float_offset = pages.coded_offset = kOffset;
    pages.float_pages = float_pages;
    pages.pages = pointers_.data();
    pages.n_pages = static_cast<int>(pointers_.size());
    pages.transform = &transform_;
  }

  void append(const KvData& data, int first, int count) {
    kernels::append_to_pages(data.rows(first, count), pages);
  }

  std::vector<float> read(bool keys, int head, int first, int count,
                          bool undo = true) const {
    const int dim = coded_.head_dim;
    std::vector<float> k(static_cast<std::size_t>(count) * dim), v(k.size());
    kernels::read_from_pages(pages, {head, first, count, k.data(), v.data(), undo});
    return keys ? k : v;
  }

  const KvLayout& coded() const { return coded_; }

  KvPages pages;

 private:
  static constexpr std::int64_t kOffset = 192;  // another layer's piece
  KvLayout coded_, float_;
  std::vector<float> signs_, projection_, mean_, scale_, inverse_scale_;
  KvTransform transform_;
  std::vector<Guarded<std::byte>> owned_;
  std::vector<std::byte*> pointers_;
};

/// Every coded format, and every float one.
inline std::vector<KvFormat> all_kv_formats() {
  std::vector<KvFormat> all;
  for (const KvFormatInfo& row : kv_formats())
    for (int bits : row.bits) {
      if (row.group_sizes.empty()) all.push_back(kv_format(row.name, bits, 0));
      for (int group_size : row.group_sizes)
        all.push_back(kv_format(row.name, bits, group_size));
    }
  return all;
}

}  // namespace optiq::testing
