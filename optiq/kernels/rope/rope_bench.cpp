// Rotation of queries and keys with their norms beside the machine's read bandwidth.
// rope_bench [LABEL] writes LABEL (a commit) in the last column.
#include "optiq/kernels/bench.h"
#include "optiq/kernels/rope/rope.h"
#include "optiq/kernels/testing.h"

namespace optiq::kernels {
namespace {

constexpr int kHeads = 16, kKvHeads = 8, kDim = 128;

void run(const char* label) {
  const double bandwidth = bench::read_bandwidth();
  bench::print_header();
  for (int rows : {1, 8, 512, 4096}) {
    const auto n = static_cast<std::size_t>(rows) * (kHeads + kKvHeads) * kDim;
    const auto x = testing::random_floats(n, 1), norm = testing::random_floats(kDim, 2);
    const auto frequency = testing::random_floats(kDim / 2, 3, 0.1f);
    std::vector<float> y(n);
    std::vector<std::int32_t> positions(static_cast<std::size_t>(rows));
    for (int i = 0; i < rows; ++i) positions[static_cast<std::size_t>(i)] = 100000 + i;
    RopeArgs args{};
    const int width = (kHeads + kKvHeads) * kDim;
    args.q = {x.data(), width, kDim, norm.data(), y.data(), kHeads};
    args.k = {x.data() + kHeads * kDim,
              width,
              kDim,
              norm.data(),
              y.data() + static_cast<std::ptrdiff_t>(rows) * kHeads * kDim,
              kKvHeads};
    args.positions = positions.data();
    args.inverse_frequency = frequency.data();
    args.rows = rows;
    args.head_dim = kDim;
    args.n_frequencies = kDim / 2;
    args.eps = 1e-6f;
    args.scale = 1;
    bench::print_line("rope", fmt::format("T={} 16+8 heads x 128", rows),
                      bench::measure([&] { rope(args); }, 101),
                      8.0 * static_cast<double>(n), "GB/s", bandwidth, label);
  }
}

}  // namespace
}  // namespace optiq::kernels

int main(int argc, char** argv) { optiq::kernels::run(argc > 1 ? argv[1] : "-"); }
