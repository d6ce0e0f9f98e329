#include "optiq/kernels/causal_conv/causal_conv_primitive.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <stdexcept>

#include "mlx/ops.h"
#include "optiq/kernels/causal_conv/causal_conv.h"
#include "optiq/kernels/fused_primitive.h"
#ifdef OPTIQ_CUDA
#include "optiq/kernels/causal_conv/causal_conv_cuda.h"
#include "optiq/kernels/cuda_primitive.h"
#endif

namespace optiq::kernels {
namespace {

class CausalConvSilu : public FusedPrimitive {
 public:
  CausalConvSilu(Fallback fallback, std::vector<Segment> segments)
      : FusedPrimitive(fused_stream(), "CausalConvSilu", std::move(fallback)),
        segments_(std::move(segments)) {}

  // Inputs: x, weight, a tail for each segment. Outputs: y, the new tails.
  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    std::vector<CausalConvSegment> segments;
    CausalConvArgs args = args_of(
        inputs, outputs, segments, [&](const mx::array& x) { return contiguous(x); },
        [](const mx::array& x) { return const_cast<float*>(x.data<float>()); });
    dispatch([args, segments = std::move(segments)]() mutable {
      args.segments = segments.data();
      causal_conv_silu(args);
    });
  }

#ifdef OPTIQ_CUDA
  void eval_gpu(const Arrays& inputs, Arrays& outputs) override {
    CudaCall call(stream(), inputs, outputs);
    std::vector<CausalConvSegment> segments;
    CausalConvArgs args = args_of(
        inputs, outputs, segments, [&](const mx::array& x) { return call.in_rows(x); },
        CudaCall::data<float>);
    args.segments = segments.data();
    cuda::causal_conv_silu(args, call.launcher());
  }
#endif

  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override {
    std::vector<mx::Shape> shapes{inputs[0].shape()};
    for (std::size_t i = 2; i < inputs.size(); ++i) shapes.push_back(inputs[i].shape());
    return shapes;
  }

 private:
  // All but the pointer to the segments, which are put beside.
  template <class InRows, class Data>
  CausalConvArgs args_of(const Arrays& inputs, Arrays& outputs,
                         std::vector<CausalConvSegment>& segments, InRows&& in_rows,
                         Data&& data) {
    // First of all, while nobody else holds the tails.
    release_siblings(inputs, outputs);
    allocate(outputs[0]);
    for (std::size_t i = 0; i < segments_.size(); ++i)
      if (!donate(inputs[2 + i], outputs[1 + i])) allocate(outputs[1 + i]);
    const bool rows = inputs[0].shape(1) == 1 || inputs[0].strides()[1] == 1;
    const mx::array x = rows ? inputs[0] : in_rows(inputs[0]);
    const mx::array weight = in_rows(inputs[1]);
    std::int64_t row = 0;
    for (std::size_t i = 0; i < segments_.size(); ++i) {
      segments.push_back({row, segments_[i].tokens, data(in_rows(inputs[2 + i])),
                          data(outputs[1 + i])});
      row += segments_[i].tokens;
    }
    CausalConvArgs args{};
    args.x = data(x);
    args.x_stride = x.strides()[0];
    args.weight = data(weight);
    args.y = data(outputs[0]);
    args.channels = x.shape(1);
    args.kernel = weight.shape(1);
    args.n_segments = static_cast<int>(segments.size());
    return args;
  }

  std::vector<Segment> segments_;
};

// True where a kernel of ours takes the call.
bool has_kernel([[maybe_unused]] const mx::array& weight) {
  if (runs_on_cpu()) return true;
#ifdef OPTIQ_CUDA
  return weight.shape(1) <= cuda::kMostConvKernel;
#else
  return false;
#endif
}

// The definition in plain operations.
Arrays plain(const Arrays& in, std::span<const Segment> segments) {
  const int channels = in[0].shape(1), kernel = in[1].shape(1);
  Arrays y, out{in[0]};
  int row = 0;
  for (std::size_t i = 0; i < segments.size(); ++i) {
    const int tokens = segments[i].tokens;
    const mx::array x = mx::concatenate(
        {in[2 + i], mx::slice(in[0], {row, 0}, {row + tokens, channels})}, 0);
    mx::array sum = mx::zeros({tokens, channels});
    for (int j = 0; j < kernel; ++j)
      sum = sum +
            mx::slice(x, {j, 0}, {j + tokens, channels}) *
                mx::reshape(mx::slice(in[1], {0, j}, {channels, j + 1}), {1, channels});
    y.push_back(sum * mx::sigmoid(sum));
    out.push_back(mx::slice(x, {tokens, 0}, {tokens + kernel - 1, channels}));
    row += tokens;
  }
  if (!y.empty()) out[0] = mx::concatenate(y, 0);
  return out;
}

void check(const mx::array& x, const mx::array& weight,
           std::span<const Segment> segments, const std::vector<mx::array>& tails) {
  const auto fail = [](const std::string& message) {
    throw std::invalid_argument("[causal_conv_silu] " + message);
  };
  if (x.ndim() != 2 || weight.ndim() != 2 || weight.shape(0) != x.shape(1) ||
      weight.shape(1) < 1)
    fail(fmt::format("expected x [T, C] and weight [C, kernel], found [{}] and [{}]",
                     fmt::join(x.shape(), ", "), fmt::join(weight.shape(), ", ")));
  if (tails.size() != segments.size())
    fail(fmt::format("expected a tail for each of {} segments, found {}",
                     segments.size(), tails.size()));
  std::int64_t tokens = 0;
  for (const Segment& segment : segments) {
    if (segment.tokens < 0) fail("a segment has a negative number of tokens");
    tokens += segment.tokens;
  }
  if (tokens != x.shape(0))
    fail(fmt::format("the segments have {} tokens, x has {} rows", tokens, x.shape(0)));
  const mx::Shape expected{weight.shape(1) - 1, x.shape(1)};
  for (const mx::array& tail : tails)
    if (tail.shape() != expected)
      fail(fmt::format("expected tails of shape [{}], found [{}]",
                       fmt::join(expected, ", "), fmt::join(tail.shape(), ", ")));
}

}  // namespace

std::pair<mx::array, std::vector<mx::array>> causal_conv_silu(
    const mx::array& x, const mx::array& weight, std::span<const Segment> segments,
    const std::vector<mx::array>& tails) {
  check(x, weight, segments, tails);
  Arrays inputs{mx::astype(x, mx::float32), mx::astype(weight, mx::float32)};
  for (const mx::array& tail : tails) inputs.push_back(mx::astype(tail, mx::float32));
  std::vector<Segment> rows(segments.begin(), segments.end());
  Fallback fallback = [rows](const Arrays& in) { return plain(in, rows); };
  Arrays out;
  if (has_kernel(weight)) {
    std::vector<mx::Shape> shapes{x.shape()};
    for (const mx::array& tail : tails) shapes.push_back(tail.shape());
    const std::vector<mx::Dtype> dtypes(shapes.size(), mx::float32);
    auto primitive =
        std::make_shared<CausalConvSilu>(std::move(fallback), std::move(rows));
    out = mx::array::make_arrays(std::move(shapes), dtypes, primitive, inputs);
  } else {
    out = fallback(inputs);
  }
  const mx::array y = out.front();
  out.erase(out.begin());
  return {y, std::move(out)};
}

}  // namespace optiq::kernels
