// Divergence and likelihood of 64 rows of a large vocabulary beside the machine's read
// bandwidth. kl_divergence_bench [LABEL] writes LABEL (a commit) in the last column.
#include "optiq/kernels/kl_divergence/kl_divergence.h"

#include "optiq/kernels/bench.h"
#include "optiq/kernels/testing.h"

namespace optiq::kernels {
namespace {

constexpr int kRows = 64;

void run(const char* label) {
  const double bandwidth = bench::read_bandwidth();
  bench::print_header();
  for (int vocab : {8192, 151936}) {
    const auto n = static_cast<std::size_t>(kRows) * static_cast<std::size_t>(vocab);
    const auto a = testing::random_floats(n, 1, 3.0f);
    auto b = testing::random_floats(n, 2, 0.1f);
    for (std::size_t i = 0; i < n; ++i) b[i] += a[i];
    std::vector<double> result(kRows);
    const std::vector<int> targets(kRows, 5);
    const std::string shape = fmt::format("{} x {}", kRows, vocab);
    bench::print_line("kl_divergence", shape, bench::measure([&] {
                        kl_divergence(a.data(), b.data(), kRows, vocab, result.data(),
                                      nullptr);
                      }),
                      8.0 * static_cast<double>(n), "GB/s", bandwidth, label);
    bench::print_line("token_nll", shape, bench::measure([&] {
                        token_nll(a.data(), targets.data(), kRows, vocab,
                                  result.data());
                      }),
                      4.0 * static_cast<double>(n), "GB/s", bandwidth, label);
  }
}

}  // namespace
}  // namespace optiq::kernels

int main(int argc, char** argv) { optiq::kernels::run(argc > 1 ? argv[1] : "-"); }
