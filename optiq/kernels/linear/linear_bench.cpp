// Products with weight matrices beside MLX's own, OpenBLAS and the memory's speed.
//
// linear_bench [substring of the variants to run]. Every variant of a shape is timed
// in turn, round after round, so that a busy moment strikes all alike.
#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/base/parallel.h"
#include "optiq/base/read_bandwidth.h"
#include "optiq/base/simd_target.h"
#include "optiq/kernels/embedding/embedding.h"
#include "optiq/kernels/linear/linear.h"

extern "C" void cblas_sgemm(int, int, int, int, int, int, float, const float*, int,
                            const float*, int, float, float*, int);

namespace optiq::kernels {
namespace {

namespace mx = mlx::core;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kPiece = 32 << 20;      // read in about the time of a product
constexpr std::size_t kFarBytes = 192 << 20;  // copies of W that outgrow the caches

double microseconds(const std::function<void()>& run) {
  const auto begin = Clock::now();
  run();
  return std::chrono::duration<double, std::micro>(Clock::now() - begin).count();
}

struct Times {
  std::vector<double> us;
  double at(double share) {
    std::sort(us.begin(), us.end());
    return us[static_cast<std::size_t>(share * static_cast<double>(us.size() - 1))];
  }
};

// Pages of 2 MB where the system has them.
class BigMemory {
 public:
  explicit BigMemory(std::size_t size) : size_((size + kPage - 1) / kPage * kPage) {
    data_ = static_cast<char*>(mmap(nullptr, size_, PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    madvise(data_, size_, MADV_HUGEPAGE);
  }
  BigMemory(const BigMemory&) = delete;
  ~BigMemory() { munmap(data_, size_); }
  char* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  static constexpr std::size_t kPage = 2 << 20;
  std::size_t size_;
  char* data_;
};

// Enough copies of one quantized matrix that none stays in a cache.
struct Copies {
  MatrixView first;
  std::size_t each, n;
  BigMemory memory;
  std::size_t next = 0;

  Copies(int N, int K, int bits)
      : each((static_cast<std::size_t>(N) * static_cast<std::size_t>(K) *
                  static_cast<std::size_t>(bits) / 8 +
              static_cast<std::size_t>(N) * static_cast<std::size_t>(K / 64) * 4 +
              4095) /
             4096 * 4096),
        n(std::max<std::size_t>(1, kFarBytes / each)),
        memory(each * n) {
    first.N = N;
    first.K = K;
    first.type = FloatType::kBF16;
    first.spec = {QuantMode::kAffine, bits, 64};
    first.scales = memory.data();  // makes it a quantized one
    std::mt19937_64 random(1);
    auto* words = reinterpret_cast<std::uint64_t*>(memory.data());
    const std::size_t code_words = static_cast<std::size_t>(N * first.row_bytes()) / 8;
    for (std::size_t i = 0; i < code_words; ++i) words[i] = random();
    auto* scales = reinterpret_cast<std::uint16_t*>(words + code_words);
    const std::size_t groups =
        static_cast<std::size_t>(N) * static_cast<std::size_t>(first.groups());
    for (std::size_t i = 0; i < 2 * groups; ++i)
      scales[i] = float_to_bf16(0.001f * static_cast<float>(1 + i % 7));
    for (std::size_t i = 1; i < n; ++i)
      std::memcpy(memory.data() + i * each, memory.data(), each);
  }

  MatrixView take() {
    MatrixView w = first;
    char* at = memory.data() + next * each;
    next = (next + 1) % n;
    w.weight = at;
    w.scales = at + w.N * w.row_bytes();
    w.biases = at + w.N * w.row_bytes() + std::int64_t{w.N} * w.groups() * 2;
    return w;
  }
};

struct Variant {
  std::string name;
  int rounds;
  std::function<void()> run;
  std::vector<float>* y;
  double tolerance;  // against the first variant's y, as a share of its largest value
  Times times;
};

struct Shape {
  int M, N, K, bits;
};

double largest(const std::vector<float>& y) {
  double most = 0;
  for (float v : y) most = std::max(most, std::abs(static_cast<double>(v)));
  return most;
}

void check(const Variant& v, const std::vector<float>& expected) {
  double worst = 0;
  for (std::size_t i = 0; i < expected.size(); ++i)
    worst = std::max(worst, std::abs(static_cast<double>((*v.y)[i]) - expected[i]));
  if (!(worst <= v.tolerance * largest(expected))) {
    fmt::print(stderr, "{}: off by {} of {}\n", v.name, worst, largest(expected));
    std::exit(1);
  }
}

void bench(const Shape& s, const std::string& only, ReadBandwidth& bandwidth) {
  const auto size_x = static_cast<std::size_t>(s.M) * static_cast<std::size_t>(s.K);
  const auto size_y = static_cast<std::size_t>(s.M) * static_cast<std::size_t>(s.N);
  Copies weights(s.N, s.K, s.bits);
  std::vector<float> x(size_x), y0(size_y), y1(size_y), y2(size_y), y3(size_y);
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  for (float& v : x) v = normal(random);

  const auto ours = [&](std::vector<float>& y, Activation activation) {
    return [&, activation, out = y.data()] {
      Product p;
      p.w = weights.take();
      p.y = out;
      linear(x.data(), s.M, s.K, &p, 1, activation);
    };
  };
  const bool heavy = static_cast<double>(s.M) * s.N * s.K > 3e9;
  const int rounds = heavy ? 9 : s.M == 1 ? 60 : 21;
  std::vector<Variant> variants;
  variants.push_back({"exact", rounds, ours(y0, Activation::kExact), &y0, 0, {}});
  // Half a step of max|x| / 127 for each value; errors add up like a random walk.
  variants.push_back({"int8", rounds, ours(y1, Activation::kInt8), &y1, 0.05, {}});

  const MatrixView one = weights.take();
  BigMemory dense(static_cast<std::size_t>(s.N) * static_cast<std::size_t>(s.K) * 4);
  auto* values = reinterpret_cast<float*>(dense.data());
  dequantize_rows(one, nullptr, s.N, values);
  const auto blas = [&] {
    cblas_sgemm(101, 111, 112, s.M, s.N, s.K, 1, x.data(), s.K, values, s.K, 0,
                y2.data(), s.N);
  };
  variants.push_back({"openblas", rounds, blas, &y2, 1e-3, {}});
  const auto dense_run = [&] {
    Product p;
    p.w.N = s.N;
    p.w.K = s.K;
    p.w.weight = values;
    p.y = y3.data();
    linear(x.data(), s.M, s.K, &p, 1, Activation::kExact);
  };
  std::vector<float> y4(size_y);
  variants.push_back({"dense-f32", rounds, dense_run, &y3, 1e-3, {}});

  const auto words = [&](const void* p, mx::Shape shape, mx::Dtype type) {
    return mx::array(const_cast<void*>(p), std::move(shape), type, [](void*) {});
  };
  const mx::array mx_x(x.data(), {s.M, s.K});
  const mx::array mx_w = words(one.weight, {s.N, s.K * s.bits / 32}, mx::uint32);
  const mx::array mx_s =
      mx::astype(words(one.scales, {s.N, one.groups()}, mx::bfloat16), mx::float32);
  const mx::array mx_b =
      mx::astype(words(one.biases, {s.N, one.groups()}, mx::bfloat16), mx::float32);
  mx::eval(mx_s, mx_b);
  const auto mlx = [&] {
    mx::array y =
        mx::quantized_matmul(mx_x, mx_w, mx_s, mx_b, true, 64, s.bits, "affine");
    y.eval();
    std::memcpy(y4.data(), y.data<float>(), size_y * 4);
  };
  variants.push_back({"mlx", s.M == 1 ? 5 : 1, mlx, &y4, 1e-3, {}});
  if (s.M > 64) variants.pop_back();  // minutes

  std::erase_if(variants, [&](const Variant& v) {
    return v.name != "exact" && v.name.find(only) == std::string::npos;
  });
  Times bandwidths;
  for (Variant& v : variants) {
    for (int i = 0; i < (v.rounds > 5 ? 3 : 1); ++i) v.run();
    check(v, y0);
  }
  for (int round = 0; round < rounds; ++round) {
    if (s.M == 1) bandwidths.us.push_back(bandwidth.measure(kPiece) * 1e-9);
    for (Variant& v : variants)
      if (round < v.rounds) v.times.us.push_back(microseconds(v.run));
  }
  const double flop = 2.0 * s.M * s.N * s.K;
  for (Variant& v : variants) {
    const bool is_dense = v.name == "openblas" || v.name == "dense-f32";
    const double bytes = is_dense ? 4.0 * s.N * s.K : static_cast<double>(one.bytes());
    const double us = v.times.at(0.5);
    fmt::print("linear,{}x{}x{} b{},{} {},{:.1f},{:.1f},{:.1f},", s.M, s.N, s.K, s.bits,
               v.name, name(simd_target()), us, v.times.at(0.1), v.times.at(0.9));
    if (s.M == 1)
      fmt::print("{:.2f} GB/s,{:.0f}%\n", bytes / us / 1e3,
                 100 * bytes / us / 1e3 / bandwidths.at(0.5));
    else
      fmt::print("{:.1f} GFLOP/s,\n", flop / us / 1e3);
    std::fflush(stdout);
  }
  if (s.M == 1)
    fmt::print("memory,read,{} threads,,{:.2f},{:.2f},{:.2f} GB/s,\n", thread_count(),
               bandwidths.at(0.1), bandwidths.at(0.9), bandwidths.at(0.5));
}

}  // namespace
}  // namespace optiq::kernels

int main(int argc, char** argv) {
  using namespace optiq::kernels;
  const std::string only = argc > 1 ? argv[1] : "";
  optiq::ReadBandwidth bandwidth;
  fmt::print("name,shape MxNxK,variant,median_us,p10,p90,rate,% of peak\n");
  std::vector<Shape> shapes;
  for (int M : {1, 8, 64, 512})
    for (auto [N, K] : {std::pair{1024, 3072}, {4096, 4096}, {4096, 12288}})
      for (int bits : {4, 8}) shapes.push_back({M, N, K, bits});
  for (int M : {1, 512})
    for (int bits : {2, 3, 5, 6}) shapes.push_back({M, 4096, 4096, bits});
  for (const Shape& shape : shapes) {
    if (argc > 2 && std::to_string(shape.M) != argv[2]) continue;
    bench(shape, only, bandwidth);
  }
}
