// attention_cuda_bench: decoding and prefill over pages, 32 heads by 8 of 128 values,
// as a layer of Qwen3-8B has them: bytes of the pages, and multiply-adds, a second.
#include <cstdio>
#include <memory>

#include "optiq/kernels/attention/attention_cuda.h"
#include "optiq/kernels/cuda_bench.h"

namespace {

using namespace optiq;
using namespace optiq::kernels;
using optiq::testing::DeviceBuffer;

constexpr int kHeads = 32, kKvHeads = 8, kDim = 128;

struct Run {
  int batch, tokens, cached;
};

// Seconds of one call, and bytes of the pages that it reads.
struct Measured {
  double seconds, bytes;
};

Measured measure(const KvFormat& format, const Run& run) {
  const KvLayout layout =
      make_kv_layout(kKvHeads, kDim, format, format_of_values(format));
  const int pages = (run.cached + run.tokens + kPageTokens - 1) / kPageTokens;
  const std::size_t bytes = std::size_t(layout.bytes()) * pages * run.batch;
  const DeviceBuffer<std::byte> memory(nullptr, bytes);
  cudaMemset(memory.data(), 0x2c, bytes);  // small numbers in every format
  std::vector<std::byte*> table;
  std::vector<cuda::PagedRows> rows;
  for (int i = 0; i < run.batch; ++i) {
    rows.push_back({i * run.tokens, run.tokens, run.cached, i * pages});
    for (int page = 0; page < pages; ++page)
      table.push_back(memory.data() + layout.bytes() * (std::size_t(i) * pages + page));
  }
  const DeviceBuffer<std::byte*> device_table(table.data(), table.size());
  const DeviceBuffer<cuda::PagedRows> device_rows(rows.data(), rows.size());
  const std::size_t values = std::size_t(run.batch) * run.tokens * kHeads * kDim;
  const DeviceBuffer<float> q(nullptr, values), y(nullptr, values);
  cudaMemset(q.data(), 0x3c, values * sizeof(float));
  const DeviceBuffer<float> signs(std::vector<float>(kDim, 0.088388f).data(), kDim);
  KvTransform transform;
  if (is_rotated(format)) transform.k_signs = transform.v_signs = signs.data();
  const bool many = run.tokens > cuda::kFewTokens;
  cuda::EnteringHeads heads;
  heads.q = {q.data(), kHeads * kDim, kDim};
  const cuda::PagedAttentionArgs args{
      {layout, layout, 0, 0, 0, transform},
      {device_rows.data(), device_table.data(), run.batch},
      heads,
      {},
      y.data(),
      run.batch * run.tokens,
      kHeads,
      0.088f,
      0,
      true,
      Activation::kInt8,
      run.tokens,
      run.cached + run.tokens,
      many,
      !many};
  const DeviceBuffer<std::byte> scratch(nullptr, cuda::attention_scratch_bytes(args));
  const double seconds = bench::device_seconds(
      [&](int) { cuda::attention(args, scratch.data(), optiq::testing::launch_now); },
      many ? 2 : 32);
  return {seconds, double(bytes)};
}

}  // namespace

int main() {
  const KvFormat formats[] = {kv_float(FloatType::kBF16), kv_float(FloatType::kF16),
                              kv_format("affine", 8, 64), kv_format("affine", 4, 64),
                              kv_format("turbo", 4, 0),   kv_format("turbo", 3, 0)};
  const Run decoding[] = {{1, 1, 63},    {1, 1, 2047},  {1, 1, 16383}, {1, 1, 65535},
                          {8, 1, 16383}, {32, 1, 4095}, {128, 1, 2047}};
  std::printf("decoding: batch, depth, us, GB/s of pages\n");
  for (const KvFormat& format : formats)
    for (const Run& run : decoding) {
      const Measured m = measure(format, run);
      std::printf("%-24s %4d %6d %9.1f %7.0f\n", describe(format).c_str(), run.batch,
                  run.cached + 1, 1e6 * m.seconds, 1e-9 * m.bytes / m.seconds);
    }
  std::printf("prefill: tokens, depth, ms, TFLOP/s\n");
  const Run prefill[] = {{1, 2048, 0}, {1, 2048, 14336}, {1, 2048, 63488}};
  for (const KvFormat& format : formats)
    for (const Run& run : prefill) {
      const Measured m = measure(format, run);
      const double keys = run.cached + 0.5 * run.tokens;
      std::printf("%-24s %5d %6d %9.3f %7.1f\n", describe(format).c_str(), run.tokens,
                  run.cached, 1e3 * m.seconds,
                  1e-12 * 4 * keys * run.tokens * kHeads * kDim / m.seconds);
    }
}
