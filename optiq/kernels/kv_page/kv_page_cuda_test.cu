#include <gtest/gtest.h>

#include <cmath>

#include "optiq/kernels/kv_page/cuda_testing.h"

namespace optiq::kernels {
namespace {

using namespace optiq::testing;

std::vector<KvKindOfLayer> every_kind() {
  std::vector<KvKindOfLayer> all;
  for (const KvFormat& format : all_kv_formats())
    if (format.kind != KvKind::kTurboQjl)
      all.push_back({format, format, is_rotated(format), true, true});
  all.push_back({kv_format("affine", 8, 64), kv_format("turbo", 4, 0), true, false});
  all.push_back({kv_format("turbo", 2, 0), kv_float(FloatType::kBF16), true, false});
  return all;
}

// Rows [first, first + count) of a sequence whose later rows are another call's.
void append(DevicePages& pages, const KvData& data, int first, int count) {
  const std::int64_t width = std::int64_t{data.n_kv_heads} * data.head_dim;
  const DeviceBuffer<float> k(data.k.data() + first * width, count * width);
  const DeviceBuffer<float> v(data.v.data() + first * width, count * width);
  cuda::EnteringHeads heads;
  heads.k = {k.data(), width, data.head_dim};
  heads.v = {v.data(), width, data.head_dim};
  cuda::enter_pages(pages.form(), pages.batch(), count, heads, launch_now);
  check_cuda(cudaDeviceSynchronize(), "append");
}

struct Difference {
  double rms, largest;
};
Difference difference(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0, largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double off = std::abs(double(a[i]) - b[i]);
    sum += off * off;
    largest = std::max(largest, off);
  }
  return {std::sqrt(sum / double(a.size())), largest};
}

// Both take the nearest code and the same scales but where a float32 sum rounds the
// other way, so few values differ, and by a step; floats by their last bits.
TEST(KvPageCuda, StoresWhatTheHostStores) {
  for (const KvKindOfLayer& kind : every_kind())
    for (int dim : {8, 40, 64, 80, 96, 128, 256, 1000}) {
      SCOPED_TRACE(describe(kind.k) + " / " + describe(kind.v) + " dim " +
                   std::to_string(dim));
      const int tokens = 150;
      const KvData data(tokens, 2, dim, 3);
      PagedSequence host(2, dim, kind, 1, tokens, data.mean);
      PagedSequence device(2, dim, kind, 1, tokens, data.mean);
      DevicePages pages({&device}, {{0, tokens, 0, 0}});
      append(pages, data, 0, tokens);
      pages.copy_to(device);
      host.append(data, 0, tokens);
      for (const bool keys : {true, false})
        for (int head : {0, 1}) {
          const auto theirs = host.read(keys, head, 0, tokens, false);
          const auto ours = device.read(keys, head, 0, tokens, false);
          const auto given = host.read(keys, head, 0, tokens);
          std::vector<float> raw;
          for (int t = 0; t < tokens; ++t)
            for (int i = 0; i < dim; ++i)
              raw.push_back(
                  (keys ? data.k : data.v)[std::size_t((t * 2 + head) * dim + i)]);
          const double coding = difference(given, raw).rms;
          EXPECT_LE(difference(ours, theirs).rms, 0.05 * coding + 1e-5);
        }
    }
}

TEST(KvPageCuda, StoresTheSameBytesInAnyPieces) {
  for (const KvKindOfLayer& kind : every_kind()) {
    SCOPED_TRACE(describe(kind.k) + " / " + describe(kind.v));
    const int tokens = 140, dim = 80;
    const KvData data(tokens, 2, dim, 4);
    PagedSequence empty(2, dim, kind, 1, tokens, data.mean);
    DevicePages at_once({&empty}, {{0, tokens, 0, 0}});
    append(at_once, data, 0, tokens);
    PagedSequence in_pieces(2, dim, kind, 1, tokens, data.mean);
    for (int first = 0, n = 1; first < tokens; first += n, n = n * 2 % 37 + 1) {
      n = std::min(n, tokens - first);
      DevicePages pages({&in_pieces}, {{0, n, first, 0}});
      append(pages, data, first, n);
      pages.copy_to(in_pieces);
    }
    DevicePages copied({&in_pieces}, {{0, 0, 0, 0}});
    EXPECT_EQ(copied.to_host(), at_once.to_host());
  }
}

TEST(KvPageCuda, StoresEachSequenceInItsPages) {
  const KvKindOfLayer kind{kv_format("affine", 4, 64), kv_format("affine", 4, 64)};
  const KvData data(9, 2, 64, 5);
  PagedSequence first(2, 64, kind, 0, 200, data.mean);
  PagedSequence second(2, 64, kind, 0, 70, data.mean);
  PagedSequence expected_first(2, 64, kind, 0, 200, data.mean);
  PagedSequence expected_second(2, 64, kind, 0, 70, data.mean);
  for (PagedSequence* s : {&expected_first, &expected_second}) {
    KvRows rows = data.rows(0, 9);
    if (s == &expected_first) {
      rows.tokens = 4;
      rows.first = 126;
    } else {
      rows.k += 4 * rows.k_row_stride;
      rows.v += 4 * rows.v_row_stride;
      rows.tokens = 5;
      rows.first = 62;
    }
    append_to_pages(rows, s->pages);
  }
  DevicePages pages({&first, &second}, {{0, 4, 126, 0}, {4, 5, 62, 0}});
  append(pages, data, 0, 9);
  DevicePages expected({&expected_first, &expected_second}, {{}, {}});
  // The scales' last bits may differ, and what is coded with them: the untouched bytes
  // are the same.
  const auto ours = pages.to_host(), theirs = expected.to_host();
  std::size_t differing = 0;
  for (std::size_t i = 0; i < ours.size(); ++i) differing += ours[i] != theirs[i];
  EXPECT_LE(differing, 20u);
}

TEST(KvPageCuda, MakesAGroupNotANumberWhereAValueIs) {
  KvKindOfLayer kind{kv_format("affine", 4, 32), kv_format("turbo", 3, 0)};
  KvData data(3, 1, 64, 6);
  data.k[64 + 40] = data.v[64 + 3] = std::nanf("");
  PagedSequence sequence(1, 64, kind, 0, 3, data.mean);
  DevicePages pages({&sequence}, {{0, 3, 0, 0}});
  append(pages, data, 0, 3);
  pages.copy_to(sequence);
  const auto k = sequence.read(true, 0, 0, 3), v = sequence.read(false, 0, 0, 3);
  for (std::size_t i = 0; i < 3 * 64; ++i) {
    EXPECT_EQ(std::isnan(k[i]), i / 32 == 3) << i;
    EXPECT_EQ(std::isnan(v[i]), i / 64 == 1) << i;
  }
}

}  // namespace
}  // namespace optiq::kernels
