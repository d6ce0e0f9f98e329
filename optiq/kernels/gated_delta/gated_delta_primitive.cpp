#include "optiq/kernels/gated_delta/gated_delta_primitive.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "mlx/ops.h"
#include "optiq/kernels/fused_primitive.h"
#include "optiq/kernels/gated_delta/gated_delta.h"
#include "optiq/kernels/gated_delta/gated_delta_backward.h"
#ifdef OPTIQ_CUDA
#include "optiq/kernels/cuda_primitive.h"
#include "optiq/kernels/gated_delta/gated_delta_backward_cuda.h"
#include "optiq/kernels/gated_delta/gated_delta_cuda.h"
#endif

namespace optiq::kernels {
namespace {

constexpr std::size_t kFirstState = 5;  // inputs: qkv, a, b, a_log, dt_bias, states

// True if the values of a row lie one after another; rows may lie apart.
bool has_rows(const mx::array& x) { return x.shape(1) == 1 || x.strides()[1] == 1; }

float* host_data(const mx::array& x) { return const_cast<float*>(x.data<float>()); }

template <class Data>
GatedDeltaArgs args_of(const mx::array& qkv, const mx::array& a, const mx::array& b,
                       const GatedDeltaOptions& options, Data&& data) {
  GatedDeltaArgs args{};
  args.qkv = data(qkv);
  args.a = data(a);
  args.b = data(b);
  args.qkv_stride = qkv.strides()[0];
  args.a_stride = a.strides()[0];
  args.b_stride = b.strides()[0];
  args.n_key_heads = options.n_key_heads;
  args.n_value_heads = options.n_value_heads;
  args.key_dim = options.key_dim;
  args.value_dim = options.value_dim;
  return args;
}

// True where a kernel of ours makes the gradient.
bool has_backward_kernel([[maybe_unused]] const GatedDeltaOptions& options) {
  if (runs_on_cpu()) return true;
#ifdef OPTIQ_CUDA
  return std::max(options.key_dim, options.value_dim) <= cuda::kMostBackwardDim;
#else
  return false;
#endif
}

// Inputs: those of GatedDelta, then the gradients by its outputs. Outputs: the
// gradients by qkv, a and b.
class GatedDeltaBackward : public FusedPrimitive {
 public:
  GatedDeltaBackward(Fallback fallback, std::vector<Segment> segments,
                     const GatedDeltaOptions& options)
      : FusedPrimitive(fused_stream(), "GatedDeltaBackward", std::move(fallback)),
        segments_(std::move(segments)),
        options_(options) {}

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    std::vector<GatedDeltaSegment> segments;
    std::vector<const float*> d_states;
    GatedDeltaBackwardArgs args = args_of_call(
        inputs, outputs, segments, d_states,
        [&](const mx::array& x) { return contiguous(x); }, host_data);
    dispatch([args, segments = std::move(segments),
              d_states = std::move(d_states)]() mutable {
      args.forward.segments = segments.data();
      args.d_states = d_states.data();
      gated_delta_backward(args);
    });
  }

#ifdef OPTIQ_CUDA
  void eval_gpu(const Arrays& inputs, Arrays& outputs) override {
    CudaCall call(stream(), inputs, outputs);
    std::vector<GatedDeltaSegment> segments;
    std::vector<const float*> d_states;
    GatedDeltaBackwardArgs args = args_of_call(
        inputs, outputs, segments, d_states,
        [&](const mx::array& x) { return call.in_rows(x); }, CudaCall::data<float>);
    args.forward.segments = segments.data();
    args.d_states = d_states.data();
    cuda::gated_delta_backward(
        args, call.scratch(cuda::gated_delta_backward_bytes(args)), call.launcher());
  }
#endif

 private:
  // All but the pointers to the segments and to d_states, which are put beside.
  template <class InRows, class Data>
  GatedDeltaBackwardArgs args_of_call(const Arrays& inputs, Arrays& outputs,
                                      std::vector<GatedDeltaSegment>& segments,
                                      std::vector<const float*>& d_states,
                                      InRows&& in_rows, Data&& data) {
    for (mx::array& out : outputs) allocate(out);
    const auto rows = [&](std::size_t i) {
      return has_rows(inputs[i]) ? inputs[i] : in_rows(inputs[i]);
    };
    const auto values = [&](std::size_t i) { return data(in_rows(inputs[i])); };
    GatedDeltaBackwardArgs args{};
    args.forward = args_of(rows(0), rows(1), rows(2), options_, data);
    args.forward.a_log = values(3);
    args.forward.dt_bias = values(4);
    const std::size_t first_gradient = kFirstState + segments_.size();
    args.d_o = values(first_gradient);
    args.d_qkv = data(outputs[0]);
    args.d_a = data(outputs[1]);
    args.d_b = data(outputs[2]);
    std::int64_t row = 0;
    for (std::size_t i = 0; i < segments_.size(); ++i) {
      segments.push_back({row, segments_[i].tokens, values(kFirstState + i), nullptr});
      d_states.push_back(values(first_gradient + 1 + i));
      row += segments_[i].tokens;
    }
    args.forward.n_segments = static_cast<int>(segments.size());
    return args;
  }

  std::vector<Segment> segments_;
  GatedDeltaOptions options_;
};

class GatedDelta : public FusedPrimitive {
 public:
  GatedDelta(Fallback fallback, std::vector<Segment> segments,
             const GatedDeltaOptions& options)
      : FusedPrimitive(fused_stream(), "GatedDelta", std::move(fallback)),
        segments_(std::move(segments)),
        options_(options) {}

  // Outputs: o, the new states.
  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    std::vector<GatedDeltaSegment> segments;
    GatedDeltaArgs args = args_of_call(
        inputs, outputs, segments, [&](const mx::array& x) { return contiguous(x); },
        host_data);
    dispatch([args, segments = std::move(segments)]() mutable {
      args.segments = segments.data();
      gated_delta(args);
    });
  }

#ifdef OPTIQ_CUDA
  void eval_gpu(const Arrays& inputs, Arrays& outputs) override {
    CudaCall call(stream(), inputs, outputs);
    std::vector<GatedDeltaSegment> segments;
    GatedDeltaArgs args = args_of_call(
        inputs, outputs, segments, [&](const mx::array& x) { return call.in_rows(x); },
        CudaCall::data<float>);
    args.segments = segments.data();
    cuda::gated_delta(args, call.launcher());
  }
#endif

  // By qkv, a and b alone: with a kernel.
  Arrays vjp(const Arrays& primals, const Arrays& cotangents,
             const std::vector<int>& argnums, const Arrays& outputs) override {
    bool by_kernel = has_backward_kernel(options_);
    for (const int argnum : argnums) by_kernel = by_kernel && argnum < 3;
    if (!by_kernel) return FusedPrimitive::vjp(primals, cotangents, argnums, outputs);
    Arrays inputs = primals;
    inputs.insert(inputs.end(), cotangents.begin(), cotangents.end());
    const auto gradients = mx::array::make_arrays(
        {primals[0].shape(), primals[1].shape(), primals[2].shape()},
        {mx::float32, mx::float32, mx::float32},
        std::make_shared<GatedDeltaBackward>(fallback(), segments_, options_),
        std::move(inputs));
    Arrays wanted;
    for (const int argnum : argnums)
      wanted.push_back(gradients[static_cast<std::size_t>(argnum)]);
    return wanted;
  }

  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override {
    std::vector<mx::Shape> shapes{
        {inputs[0].shape(0), options_.n_value_heads * options_.value_dim}};
    for (std::size_t i = kFirstState; i < inputs.size(); ++i)
      shapes.push_back(inputs[i].shape());
    return shapes;
  }

 private:
  // All but the pointer to the segments, which are put beside.
  template <class InRows, class Data>
  GatedDeltaArgs args_of_call(const Arrays& inputs, Arrays& outputs,
                              std::vector<GatedDeltaSegment>& segments,
                              InRows&& in_rows, Data&& data) {
    // First of all, while nobody else holds the states.
    release_siblings(inputs, outputs);
    allocate(outputs[0]);
    for (std::size_t i = 0; i < segments_.size(); ++i)
      if (!donate(inputs[kFirstState + i], outputs[1 + i])) allocate(outputs[1 + i]);
    const auto rows = [&](const mx::array& x) { return has_rows(x) ? x : in_rows(x); };
    const mx::array qkv = rows(inputs[0]), a = rows(inputs[1]), b = rows(inputs[2]);
    std::int64_t row = 0;
    for (std::size_t i = 0; i < segments_.size(); ++i) {
      segments.push_back({row, segments_[i].tokens,
                          data(in_rows(inputs[kFirstState + i])),
                          data(outputs[1 + i])});
      row += segments_[i].tokens;
    }
    GatedDeltaArgs args = args_of(qkv, a, b, options_, data);
    args.a_log = data(in_rows(inputs[3]));
    args.dt_bias = data(in_rows(inputs[4]));
    args.o = data(outputs[0]);
    args.n_segments = static_cast<int>(segments.size());
    return args;
  }

  std::vector<Segment> segments_;
  GatedDeltaOptions options_;
};

// True where a kernel of ours takes the call.
bool has_kernel([[maybe_unused]] const GatedDeltaOptions& options) {
  if (runs_on_cpu()) return true;
#ifdef OPTIQ_CUDA
  return options.key_dim <= cuda::kMostKeyDim;
#else
  return false;
#endif
}

mx::array transposed(const mx::array& x) { return mx::swapaxes(x, -1, -2); }

// Rows [begin, end) of [H, T, D].
mx::array rows_of(const mx::array& x, int begin, int end) {
  return mx::slice(x, {0, begin, 0}, {x.shape(0), end, x.shape(2)});
}

// U with (I + A) U = B, A [H, n, n] strictly lower triangular (the rest is not read).
// Halving keeps the number of operations low and, unlike powers of A, is stable.
mx::array solve_unit_lower(const mx::array& A, const mx::array& B) {
  const int n = A.shape(1), half = n / 2;
  if (n == 1) return B;
  const auto block = [&](int i0, int i1, int j0, int j1) {
    return mx::slice(A, {0, i0, j0}, {A.shape(0), i1, j1});
  };
  const mx::array upper =
      solve_unit_lower(block(0, half, 0, half), rows_of(B, 0, half));
  const mx::array lower = solve_unit_lower(
      block(half, n, half, n),
      rows_of(B, half, n) - mx::matmul(block(half, n, 0, half), upper));
  return mx::concatenate({upper, lower}, 1);
}

// What each token of some rows brings, by head.
struct Tokens {
  mx::array q, k;     // [Hv, T, Dk]
  mx::array v;        // [Hv, T, Dv]
  mx::array g, beta;  // [Hv, T, 1]
};

// The n tokens of a chunk at once, from state S; returns o and the next state.
// With G the running sum of g, D_ij = exp(G_i - G_j) for i >= j, else 0:
//   u_i = beta_i (v_i - exp(G_i) S^T k_i - sum_{j<i} D_ij (k_i k_j) u_j)
//   o_i = exp(G_i) S^T q_i + sum_{j<=i} D_ij (q_i k_j) u_j
// Source: Yang et al. 2024, section 3.3, with the inverse left as a triangular solve.
std::pair<mx::array, mx::array> chunk(const Tokens& t, const mx::array& S) {
  const int n = t.q.shape(1);
  const mx::array G = mx::cumsum(t.g, 1);
  const mx::array lower = mx::tril(mx::ones({n, n}), 0) > mx::array(0.0f);
  const mx::array D =
      mx::exp(mx::where(lower, G - transposed(G), mx::array(-INFINITY)));
  const mx::array keys = transposed(t.k);
  const mx::array U =
      solve_unit_lower(t.beta * mx::matmul(t.k, keys) * D,
                       t.beta * (t.v - mx::exp(G) * mx::matmul(t.k, S)));
  const mx::array o =
      mx::exp(G) * mx::matmul(t.q, S) + mx::matmul(mx::matmul(t.q, keys) * D, U);
  const mx::array last = rows_of(G, n - 1, n);
  return {o, mx::exp(last) * S + mx::matmul(transposed(t.k * mx::exp(last - G)), U)};
}

mx::array unit_length(const mx::array& x) {
  return x * mx::rsqrt(mx::sum(mx::square(x), -1, true) + mx::array(1e-6f));
}

// The definition in plain operations.
Arrays plain(const Arrays& in, std::span<const Segment> segments,
             const GatedDeltaOptions& o) {
  constexpr int kChunk = 64;
  // e^-100 is nothing beside 1, and sums of g stay small enough to be subtracted.
  constexpr float kLeastLogDecay = -100;
  const int T = in[0].shape(0), keys = o.n_key_heads * o.key_dim;
  const auto by_head = [&](int begin, int n_heads, int dim) {
    return mx::reshape(mx::slice(in[0], {0, begin}, {T, begin + n_heads * dim}),
                       {T, n_heads, dim});
  };
  const auto head_first = [](const mx::array& x) {
    return mx::transpose(x, {1, 0, 2});
  };
  const auto key = [&](int begin) {
    return head_first(mx::repeat(unit_length(by_head(begin, o.n_key_heads, o.key_dim)),
                                 o.n_value_heads / o.n_key_heads, 1));
  };
  const auto column = [&](const mx::array& x) {
    return head_first(mx::expand_dims(x, -1));
  };
  const mx::array softplus = mx::logaddexp(in[1] + in[4], mx::array(0.0f));
  const float scale = 1 / std::sqrt(static_cast<float>(o.key_dim));
  const Tokens all{key(0) * mx::array(scale), key(keys),
                   head_first(by_head(2 * keys, o.n_value_heads, o.value_dim)),
                   column(mx::maximum(mx::negative(mx::exp(in[3])) * softplus,
                                      mx::array(kLeastLogDecay))),
                   column(mx::sigmoid(in[2]))};
  Arrays outputs, states;
  int row = 0;
  for (std::size_t i = 0; i < segments.size(); ++i) {
    mx::array S = in[kFirstState + i];
    const int end = row + segments[i].tokens;
    for (; row < end; row += std::min(kChunk, end - row)) {
      const int stop = std::min(row + kChunk, end);
      const auto part = [&](const mx::array& x) { return rows_of(x, row, stop); };
      auto [out, next] = chunk(
          {part(all.q), part(all.k), part(all.v), part(all.g), part(all.beta)}, S);
      outputs.push_back(out);
      S = next;
    }
    states.push_back(S);
  }
  const int width = o.n_value_heads * o.value_dim;
  Arrays result{outputs.empty()
                    ? mx::zeros({T, width})
                    : mx::reshape(head_first(mx::concatenate(outputs, 1)), {T, width})};
  result.insert(result.end(), states.begin(), states.end());
  return result;
}

void check(const Arrays& in, std::span<const Segment> segments,
           const GatedDeltaOptions& o) {
  const auto fail = [](const std::string& message) {
    throw std::invalid_argument("[gated_delta] " + message);
  };
  if (o.n_key_heads < 1 || o.key_dim < 1 || o.value_dim < 1 ||
      o.n_value_heads < o.n_key_heads || o.n_value_heads % o.n_key_heads != 0)
    fail(
        fmt::format("expected value heads a multiple of key heads and dims of 1 or "
                    "more, found {} and {} heads, key_dim {}, value_dim {}",
                    o.n_value_heads, o.n_key_heads, o.key_dim, o.value_dim));
  std::int64_t T = 0;
  for (const Segment& segment : segments) {
    if (segment.tokens < 0) fail("a segment has a negative number of tokens");
    T += segment.tokens;
  }
  const auto expect = [&](const char* name, const mx::array& x, mx::Shape shape) {
    if (x.shape() != shape)
      fail(fmt::format("expected {} of shape [{}], found [{}]", name,
                       fmt::join(shape, ", "), fmt::join(x.shape(), ", ")));
  };
  const int rows = static_cast<int>(T), Hv = o.n_value_heads;
  expect("qkv", in[0], {rows, 2 * o.n_key_heads * o.key_dim + Hv * o.value_dim});
  expect("a", in[1], {rows, Hv});
  expect("b", in[2], {rows, Hv});
  expect("a_log", in[3], {Hv});
  expect("dt_bias", in[4], {Hv});
  if (in.size() - kFirstState != segments.size())
    fail(fmt::format("expected a state for each of {} segments, found {}",
                     segments.size(), in.size() - kFirstState));
  for (std::size_t i = kFirstState; i < in.size(); ++i)
    expect("a state", in[i], {Hv, o.key_dim, o.value_dim});
}

}  // namespace

std::pair<mx::array, std::vector<mx::array>> gated_delta(
    const mx::array& qkv, const mx::array& a, const mx::array& b,
    const mx::array& a_log, const mx::array& dt_bias, std::span<const Segment> segments,
    std::vector<mx::array> states, const GatedDeltaOptions& options) {
  Arrays inputs{qkv, a, b, a_log, dt_bias};
  for (mx::array& state : states) inputs.push_back(std::move(state));
  states.clear();
  check(inputs, segments, options);
  for (mx::array& input : inputs)
    if (input.dtype() != mx::float32) input = mx::astype(input, mx::float32);
  std::vector<Segment> rows(segments.begin(), segments.end());
  Fallback fallback = [rows, options](const Arrays& in) {
    return plain(in, rows, options);
  };
  Arrays out;
  if (has_kernel(options)) {
    auto primitive =
        std::make_shared<GatedDelta>(std::move(fallback), std::move(rows), options);
    auto shapes = primitive->output_shapes(inputs);
    const std::vector<mx::Dtype> dtypes(shapes.size(), mx::float32);
    out =
        mx::array::make_arrays(std::move(shapes), dtypes, primitive, std::move(inputs));
  } else {
    out = fallback(inputs);
  }
  const mx::array o = out.front();
  out.erase(out.begin());
  return {o, std::move(out)};
}

}  // namespace optiq::kernels
