// One token from a vocabulary of 151936: greedy, and with each filter. The rate counts
// one read of the logits.
// sampling_bench [LABEL] writes LABEL (a commit) in the last column.
#include "optiq/kernels/sampling/sampling.h"

#include "optiq/kernels/bench.h"
#include "optiq/kernels/testing.h"

namespace optiq::kernels {
namespace {

constexpr int kVocab = 151936;

void run(const char* label) {
  const double bandwidth = bench::read_bandwidth();
  const auto logits = testing::random_floats(kVocab, 1, 3.0f);
  bench::print_header();
  const auto line = [&](const char* name, const SamplingOptions& options) {
    Sampler sampler(options, 1);
    bench::print_line("sampling", name,
                      bench::measure([&] { sampler.sample(logits); }, 101),
                      4.0 * kVocab, "GB/s", bandwidth, label);
  };
  SamplingOptions options;
  line("greedy", options);
  options.temperature = 0.7f;
  line("temperature", options);
  options.top_k = 50;
  line("top_k 50", options);
  options.top_k = 0;
  options.top_p = 0.9f;
  line("top_p 0.9", options);
  options.top_p = 1;
  options.min_p = 0.05f;
  line("min_p 0.05", options);
  options = {};
  options.temperature = 100;  // nearly flat
  options.top_p = 0.9f;
  line("top_p 0.9 flat", options);
}

}  // namespace
}  // namespace optiq::kernels

int main(int argc, char** argv) { optiq::kernels::run(argc > 1 ? argv[1] : "-"); }
