// Attention at decode beside the machine's read bandwidth, and at prefill beside its
// multiply-adds; MLX's own operation beside both. OPTIQ_SIMD chooses the target.
// Over pages: bytes of the cache read per second, and cached tokens passed per second.
// attention_bench [LABEL [PART]] writes LABEL (a commit) in the last column and runs
// the measurements whose name begins with PART.
#include "optiq/kernels/attention/attention.h"

#include <cstring>
#include <string_view>

#include "mlx/fast.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/kernels/bench.h"
#include "optiq/kernels/kv_page/kv_page.h"
#include "optiq/kernels/kv_page/kv_transform.h"
#include "optiq/kernels/testing.h"

namespace optiq::kernels {
namespace {

constexpr int kHeads = 16, kKvHeads = 8, kDim = 128;

struct Limits {
  double bytes, operations;
};

// `layers` caches of `keys` tokens, so that together they are larger than any cache.
struct Problem {
  Problem(int tokens, int keys, FloatType type)
      : tokens(tokens), keys(keys), type(type) {
    const std::size_t values = static_cast<std::size_t>(kKvHeads * kDim) * keys;
    bytes = 2.0 * static_cast<double>(values) * size_of(type);
    const int layers = tokens > 8 ? 1 : static_cast<int>(300e6 / bytes) + 1;
    q = testing::random_floats(static_cast<std::size_t>(tokens) * kHeads * kDim, 1);
    y.resize(q.size());
    const auto random = testing::random_floats(65536, 2);
    for (int i = 0; i < 2 * layers; ++i) {
      auto& cache = caches.emplace_back(values * size_of(type));
      for (std::size_t j = 0; j < values; ++j) {
        const float x = random[j % 65536];
        if (type == FloatType::kF32)
          reinterpret_cast<float*>(cache.data())[j] = x;
        else
          reinterpret_cast<std::uint16_t*>(cache.data())[j] = float_to_f16(x);
      }
    }
  }

  void run() {
    const std::int64_t head = static_cast<std::int64_t>(keys) * kDim;
    const AttentionSegment segment{tokens, keys - tokens,
                                   KvView{caches[next].data(), caches[next + 1].data(),
                                          type, head, kDim, head, kDim}};
    next = (next + 2) % caches.size();
    AttentionArgs args{};
    args.q = q.data();
    args.q_row_stride = kHeads * kDim;
    args.q_head_stride = kDim;
    args.y = y.data();
    args.segments = &segment;
    args.n_segments = 1;
    args.n_heads = kHeads;
    args.n_kv_heads = kKvHeads;
    args.head_dim = kDim;
    args.scale = 0.088388f;
    args.causal = true;
    attention(args);
  }

  // Of the visible keys: a multiply and an add for q k and for p v.
  double operations() const {
    return 4.0 * kDim * kHeads * tokens * (keys - (tokens - 1) / 2.0);
  }

  int tokens, keys;
  FloatType type;
  double bytes;
  std::vector<float> q, y;
  std::vector<std::vector<std::uint8_t>> caches;
  std::size_t next = 0;
};

void measure_ours(int tokens, int keys, FloatType type, const Limits& limits,
                  const char* label) {
  Problem problem(tokens, keys, type);
  const std::string shape = fmt::format("T={} S={} {}", tokens, keys,
                                        type == FloatType::kF32 ? "f32" : "f16");
  const auto times = bench::measure([&] { problem.run(); });
  if (tokens <= 8)
    bench::print_line("attention", shape, times, problem.bytes, "GB/s", limits.bytes,
                      label);
  else
    bench::print_line("attention", shape, times, problem.operations(), "GFLOP/s",
                      limits.operations, label);
}

void measure_mlx(int tokens, int keys, const Limits& limits, const char* label) {
  const Problem problem(tokens, keys, FloatType::kF32);
  const auto array = [](const void* data, const mlx::core::Shape& shape) {
    return mlx::core::array(static_cast<const float*>(data), shape);
  };
  const auto q = array(problem.q.data(), {1, kHeads, tokens, kDim});
  const auto k = array(problem.caches[0].data(), {1, kKvHeads, keys, kDim});
  const auto v = array(problem.caches[1].data(), {1, kKvHeads, keys, kDim});
  const auto times = bench::measure(
      [&] {
        mlx::core::eval(mlx::core::fast::scaled_dot_product_attention(
            q, k, v, 0.088388f, tokens > 1 ? "causal" : ""));
      },
      5);
  bench::print_line("mlx_attention", fmt::format("T={} S={} f32", tokens, keys), times,
                    tokens <= 8 ? problem.bytes : problem.operations(),
                    tokens <= 8 ? "GB/s" : "GFLOP/s",
                    tokens <= 8 ? limits.bytes : limits.operations, label);
}

struct Shape {
  int n_heads, n_kv_heads, dim;
};

// A sequence in pages of several layers, so that together they are larger than any
// cache; each run is of the next layer. All layers hold the same. Short sequences have
// one layer, to see what is left without the memory's limit.
class PagedProblem {
 public:
  PagedProblem(const Shape& shape, int tokens, int keys, const KvFormat& format)
      : shape_(shape),
        tokens_(tokens),
        keys_(keys),
        layout_(make_kv_layout(shape.n_kv_heads, shape.dim, format, format)),
        signs_(rotation_signs(shape.dim, 1)) {
    const int n_pages = (keys + kPageTokens - 1) / kPageTokens;
    layers_ = tokens > 8 || keys <= 1024 ? 1 : static_cast<int>(300e6 / bytes()) + 1;
    const std::int64_t page_bytes = layers_ * layout_.bytes();
    memory_.resize(static_cast<std::size_t>(n_pages * page_bytes + 64));
    void* begin = memory_.data();
    std::size_t space = memory_.size();
    std::align(64, memory_.size() - 64, begin, space);
    for (int i = 0; i < n_pages; ++i)
      pages_.push_back(static_cast<std::byte*>(begin) + i * page_bytes);
    if (is_rotated(format)) transform_.k_signs = transform_.v_signs = signs_.data();
    view_.coded_layout = &layout_;
    view_.pages = pages_.data();
    view_.n_pages = n_pages;
    view_.transform = &transform_;
    q_ = testing::random_floats(
        static_cast<std::size_t>(tokens * shape.n_heads * shape.dim), 1);
    y_.resize(q_.size());
    const std::int64_t width = static_cast<std::int64_t>(shape.n_kv_heads) * shape.dim;
    const auto x = testing::random_floats(static_cast<std::size_t>(keys * width), 2);
    append_to_pages({x.data(), width, shape.dim, x.data(), width, shape.dim, 0, keys},
                    view_);
    for (std::byte* page : pages_)
      for (int layer = 1; layer < layers_; ++layer)
        std::memcpy(page + layer * layout_.bytes(), page,
                    static_cast<std::size_t>(layout_.bytes()));
  }

  double bytes() const {
    return static_cast<double>(layout_.bytes()) * keys_ / kPageTokens;
  }

  // As in Problem.
  double operations() const {
    return 4.0 * shape_.dim * shape_.n_heads * tokens_ * (keys_ - (tokens_ - 1) / 2.0);
  }

  void run() {
    view_.coded_offset = layer_ * layout_.bytes();
    layer_ = (layer_ + 1) % layers_;
    const AttentionSegment segment{tokens_, keys_ - tokens_, {}, &view_};
    AttentionArgs args{};
    args.q = q_.data();
    args.q_row_stride = shape_.n_heads * shape_.dim;
    args.q_head_stride = shape_.dim;
    args.y = y_.data();
    args.segments = &segment;
    args.n_segments = 1;
    args.n_heads = shape_.n_heads;
    args.n_kv_heads = shape_.n_kv_heads;
    args.head_dim = shape_.dim;
    args.scale = 0.1f;
    args.causal = true;
    attention(args);
  }

  // Codes the last `tokens` tokens again.
  void append() {
    const std::int64_t width =
        static_cast<std::int64_t>(shape_.n_kv_heads) * shape_.dim;
    append_to_pages({q_.data(), width, shape_.dim, q_.data(), width, shape_.dim,
                     keys_ - tokens_, tokens_},
                    view_);
  }

 private:
  Shape shape_;
  int tokens_, keys_;
  KvLayout layout_;
  std::vector<float> signs_, q_, y_;
  std::vector<std::byte> memory_;
  std::vector<std::byte*> pages_;
  KvTransform transform_;
  KvPages view_;
  int layers_ = 1, layer_ = 0;
};

constexpr Shape kShapes[] = {{16, 8, 128}, {32, 8, 64}};

std::string text(const Shape& shape, int tokens, int keys, const KvFormat& format) {
  return fmt::format("T={} S={} {}/{}x{} {}", tokens, keys, shape.n_heads,
                     shape.n_kv_heads, shape.dim, describe(format));
}

std::vector<KvFormat> page_formats() {
  return {kv_float(FloatType::kF16),  kv_format("affine", 8, 64),
          kv_format("affine", 4, 64), kv_format("affine", 3, 64),
          kv_format("turbo", 4, 0),   kv_format("turbo", 3, 0)};
}

void measure_paged_decode(int tokens, int keys, const Limits& limits,
                          const char* label) {
  for (const Shape& shape : kShapes)
    for (const KvFormat& format : page_formats()) {
      PagedProblem problem(shape, tokens, keys, format);
      const auto times = bench::measure([&] { problem.run(); });
      const std::string name = text(shape, tokens, keys, format);
      bench::print_line("paged_decode", name, times, problem.bytes(), "GB/s",
                        limits.bytes, label);
      bench::print_line("paged_decode_tokens", name, times, 1e3 * keys, "Mtok/s", 0,
                        label);
    }
}

void measure_paged_prefill(const Limits& limits, const char* label) {
  for (const Shape& shape : kShapes)
    for (const KvFormat& format : page_formats()) {
      PagedProblem problem(shape, 512, 4096, format);
      const std::string name = text(shape, 512, 4096, format);
      bench::print_line("paged_prefill", name,
                        bench::measure([&] { problem.run(); }, 7), problem.operations(),
                        "GFLOP/s", limits.operations, label);
      bench::print_line("paged_append", name,
                        bench::measure([&] { problem.append(); }, 7), 512e3, "Mtok/s",
                        0, label);
    }
}

void run(const char* label, std::string_view part) {
  const auto wanted = [&](std::string_view name) { return name.starts_with(part); };
  const Limits limits{bench::read_bandwidth(), bench::multiply_add_peak()};
  fmt::print("# {} threads, reads {:.1f} GB/s, {:.0f} GFLOP/s in multiply-adds\n",
             thread_count(), limits.bytes * 1e-9, limits.operations * 1e-9);
  bench::print_header();
  if (wanted("views")) {
    for (FloatType type : {FloatType::kF32, FloatType::kF16}) {
      for (int keys : {512, 4096, 16384}) measure_ours(1, keys, type, limits, label);
      measure_ours(4, 4096, type, limits, label);
      measure_ours(512, 512, type, limits, label);
      measure_ours(512, 4096, type, limits, label);
    }
    measure_mlx(1, 4096, limits, label);
    measure_mlx(512, 512, limits, label);
  }
  if (wanted("pages-cached")) measure_paged_decode(1, 1024, limits, label);
  if (wanted("pages-4k")) measure_paged_decode(1, 4096, limits, label);
  if (wanted("pages-16k")) measure_paged_decode(1, 16384, limits, label);
  if (wanted("pages-rows")) measure_paged_decode(4, 4096, limits, label);
  if (wanted("pages-prefill")) measure_paged_prefill(limits, label);
  fmt::print("# reads {:.1f} GB/s at the end\n", bench::read_bandwidth() * 1e-9);
}

}  // namespace
}  // namespace optiq::kernels

int main(int argc, char** argv) {
  optiq::kernels::run(argc > 1 ? argv[1] : "-", argc > 2 ? argv[2] : "");
}
