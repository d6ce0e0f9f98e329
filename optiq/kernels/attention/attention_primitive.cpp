#include "optiq/kernels/attention/attention_primitive.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>

#include "optiq/base/error.h"
#include "optiq/kernels/attention/attention.h"
#include "optiq/kernels/attention/attention_backward.h"
#include "optiq/kernels/attention/attention_fallback.h"
#include "optiq/kernels/fused_primitive.h"
#include "optiq/kernels/kv_page/kv_page.h"
#include "optiq/kernels/rope/rope_inputs.h"

#ifdef OPTIQ_CUDA
#include "optiq/kernels/attention/attention_cuda.h"
#include "optiq/kernels/cuda_primitive.h"
#include "optiq/kernels/dispatch_tape.h"
#endif

namespace optiq::kernels {
namespace {

// What the options say without their arrays.
struct Settings {
  std::vector<Segment> segments;
  float scale;
  int window;
  bool causal, has_gate;
  Activation activation;
};

// What attention() and paged_attention() share.
class AttentionBase : public FusedPrimitive {
 public:
  AttentionBase(Fallback fallback, Settings settings)
      : FusedPrimitive(fused_stream(), "Attention", std::move(fallback)),
        settings_(std::move(settings)) {}

  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override {
    return {inputs[0].shape()};
  }

 protected:
  struct Rows {
    mx::array q, k, v;
    AttentionArgs args;
  };

  // The rows of a call with what is known without their keys.
  Rows rows_of(const Arrays& inputs, mx::array& out) {
    Rows rows{with_contiguous_rows(inputs[0]),
              with_contiguous_rows(inputs[1]),
              with_contiguous_rows(inputs[2]),
              {}};
    allocate(out);
    AttentionArgs& args = rows.args;
    args.q = rows.q.data<float>();
    args.q_row_stride = rows.q.strides(0);
    args.q_head_stride = rows.q.strides(1);
    if (settings_.has_gate) {
      const mx::array gate = with_contiguous_rows(inputs[3]);
      args.gate = gate.data<float>();
      args.gate_row_stride = gate.strides(0);
      args.gate_head_stride = gate.strides(1);
    }
    args.y = out.data<float>();
    args.n_heads = rows.q.shape(1);
    args.n_kv_heads = rows.k.shape(1);
    args.head_dim = rows.q.shape(2);
    args.scale = settings_.scale;
    args.window = settings_.window;
    args.causal = settings_.causal;
    args.activation = settings_.activation;
    return rows;
  }

  static void run(AttentionArgs args, const std::vector<AttentionSegment>& segments) {
    args.segments = segments.data();
    args.n_segments = static_cast<int>(segments.size());
    attention(args);
  }

  mx::array with_contiguous_rows(const mx::array& x) {
    const bool rows = x.shape(2) == 1 || x.strides(2) == 1;
    return rows ? x : contiguous(x);
  }

  Settings settings_;
};

// Inputs: q, k, v, the gate if there is one, the gradient by y. Outputs: the gradients
// by all but the last.
class AttentionBackward : public FusedPrimitive {
 public:
  AttentionBackward(Fallback fallback, Settings settings)
      : FusedPrimitive(fused_stream(), "AttentionBackward", std::move(fallback)),
        settings_(std::move(settings)) {}

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    const auto data = [&](std::size_t i) {
      return contiguous(inputs[i]).data<float>();
    };
    for (mx::array& out : outputs) allocate(out);
    const bool gated = inputs.size() > 4;
    AttentionBackwardArgs args{};
    args.q = data(0);
    args.k = data(1);
    args.v = data(2);
    args.gate = gated ? data(3) : nullptr;
    args.dy = data(inputs.size() - 1);
    args.dq = outputs[0].data<float>();
    args.dk = outputs[1].data<float>();
    args.dv = outputs[2].data<float>();
    args.dgate = gated ? outputs[3].data<float>() : nullptr;
    args.n_heads = inputs[0].shape(1);
    args.n_kv_heads = inputs[1].shape(1);
    args.head_dim = inputs[0].shape(2);
    args.scale = settings_.scale;
    args.window = settings_.window;
    args.causal = settings_.causal;
    std::vector<int> lengths;
    for (const Segment& s : settings_.segments) lengths.push_back(s.tokens);
    dispatch([args, lengths = std::move(lengths)]() mutable {
      args.lengths = lengths.data();
      args.n_segments = static_cast<int>(lengths.size());
      attention_backward(args);
    });
  }

 private:
  Settings settings_;
};

class Attention : public AttentionBase {
 public:
  using AttentionBase::AttentionBase;

  Arrays vjp(const Arrays& primals, const Arrays& cotangents,
             const std::vector<int>& argnums, const Arrays& outputs) override {
    if (!runs_on_cpu())
      return FusedPrimitive::vjp(primals, cotangents, argnums, outputs);
    Arrays inputs = primals;
    inputs.push_back(cotangents[0]);
    std::vector<mx::Shape> shapes;
    for (const mx::array& x : primals) shapes.push_back(x.shape());
    const std::vector<mx::Dtype> types(shapes.size(), mx::float32);
    const auto gradients = mx::array::make_arrays(
        shapes, types, std::make_shared<AttentionBackward>(fallback(), settings_),
        std::move(inputs));
    Arrays wanted;
    for (const int argnum : argnums)
      wanted.push_back(gradients[static_cast<std::size_t>(argnum)]);
    return wanted;
  }

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    const Rows rows = rows_of(inputs, outputs[0]);
    const mx::array &k = rows.k, &v = rows.v;
    std::vector<AttentionSegment> segments;
    std::int64_t row = 0;
    for (const Segment& s : settings_.segments) {
      const KvView view{k.data<float>() + row * k.strides(0),
                        v.data<float>() + row * v.strides(0),
                        FloatType::kF32,
                        k.strides(1),
                        k.strides(0),
                        v.strides(1),
                        v.strides(0)};
      segments.push_back({s.tokens, s.cached, view});
      row += s.tokens;
    }
    dispatch(
        [args = rows.args, segments = std::move(segments)] { run(args, segments); });
  }
};

#ifdef OPTIQ_CUDA
// A layer's pages as the device's kernels see them.
cuda::PageForm form_of(const KvPages& pages) {
  const KvLayout& coded =
      pages.coded_layout ? *pages.coded_layout : *pages.float_layout;
  return {pages.float_layout ? *pages.float_layout : coded,
          coded,
          pages.float_offset,
          pages.coded_offset,
          pages.coded_layout ? pages.float_pages : pages.n_pages,
          pages.transform ? *pages.transform : KvTransform{}};
}

// True if all sequences have one form of pages, in the device's memory.
bool has_device_pages(const PagedCall& call) {
  if (call.pages.empty()) return false;
  const KvPages& first = call.pages[0].pages;
  return std::ranges::all_of(call.pages,
                             [&](const PagedKv& kv) {
                               const KvPages& p = kv.pages;
                               return p.on_device &&
                                      p.float_layout == first.float_layout &&
                                      p.coded_layout == first.coded_layout &&
                                      p.float_pages == first.float_pages &&
                                      p.transform == first.transform;
                             }) &&
         cuda::has_pages(form_of(first));
}
#endif

// With n_kv_heads > 0, k and v are in the pages already: q stands in their places among
// the inputs. Where a CUDA device's kernels run, the last input is the table, and with
// `rope` q and k are to be turned first, by what stands before the table.
class PagedAttention : public AttentionBase {
 public:
  PagedAttention(Fallback fallback, Settings settings,
                 std::shared_ptr<const PagedCall> call, int n_kv_heads = 0,
                 std::optional<RopeSettings> rope = std::nullopt)
      : AttentionBase(std::move(fallback), std::move(settings)),
        call_(std::move(call)),
        n_kv_heads_(n_kv_heads),
        rope_(rope) {}

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    Rows rows = rows_of(inputs, outputs[0]);
    const bool appends = n_kv_heads_ == 0;
    if (!appends) rows.args.n_kv_heads = n_kv_heads_;
    // The kernel keeps the pages, for it may outlive this node.
    dispatch(
        [args = rows.args, new_rows = kv_rows(rows.k, rows.v), call = call_, appends] {
          std::vector<AttentionSegment> segments;
          KvRows rest = new_rows;
          for (std::size_t i = 0; i < call->segments.size(); ++i) {
            const Segment& segment = call->segments[i];
            const KvPages& pages = call->pages[i].pages;
            if (appends) append_to_pages(of_segment(rest, segment), pages);
            segments.push_back({segment.tokens, segment.cached, {}, &pages});
            skip(rest, segment);
          }
          run(args, segments);
        });
  }

#ifdef OPTIQ_CUDA
  void eval_gpu(const Arrays& inputs, Arrays& outputs) override {
    CudaCall call(stream(), inputs, outputs);
    // Before the first launch: kernels follow one another by what they write.
    allocate(outputs[0]);
    const auto heads = [&](const mx::array& x) -> cuda::HeadRows {
      const mx::array from = x.shape(2) == 1 || x.strides(2) == 1 ? x : call.in_rows(x);
      return {CudaCall::data<float>(from), from.strides(0), from.strides(1)};
    };
    cuda::EnteringHeads entering;
    entering.q = heads(inputs[0]);
    if (n_kv_heads_ == 0) {
      entering.k = heads(inputs[1]);
      entering.v = heads(inputs[2]);
    }
    RopeArgs rope{};
    if (rope_) {
      const auto values = [&]<class T>(const mx::array& x, const T*) {
        return call.values<T>(x);
      };
      rope = rope_args(*rope_, std::span(inputs).subspan(settings_.has_gate ? 4 : 3),
                       inputs[0], values);
      entering.rope = &rope;
    }
    const PageTable& table = *call_->table;
    const auto* rows = CudaCall::data<cuda::PagedRows>(inputs.back());
    cuda::PagedAttentionArgs args{
        form_of(call_->pages[0].pages),
        {rows, reinterpret_cast<std::byte* const*>(rows + table.sequences),
         table.sequences},
        entering,
        settings_.has_gate ? heads(inputs[3]) : cuda::HeadRows{},
        nullptr,
        inputs[0].shape(0),
        inputs[0].shape(1),
        settings_.scale,
        settings_.window,
        settings_.causal,
        settings_.activation,
        0,
        0,
        false,
        false};
    for (const Segment& s : call_->segments) {
      if (s.tokens == 0) continue;
      args.most_tokens = std::max(args.most_tokens, s.tokens);
      args.most_keys = std::max(args.most_keys, s.cached + s.tokens);
      (s.tokens > cuda::kFewTokens ? args.some_many : args.some_few) = true;
    }
    // A taped call meets longer contexts later.
    if (TapeRecording::current()) args.most_keys = table.room * kPageTokens;
    args.y = CudaCall::data<float>(outputs[0]);
    void* scratch = call.scratch(cuda::attention_scratch_bytes(args));
    cuda::attention(args, scratch, call.launcher());
  }
#endif

 private:
  static KvRows kv_rows(const mx::array& k, const mx::array& v) {
    return {k.data<float>(),
            k.strides(0),
            k.strides(1),
            v.data<float>(),
            v.strides(0),
            v.strides(1),
            0,
            0};
  }
  static KvRows of_segment(KvRows rows, const Segment& s) {
    rows.first = s.cached;
    rows.tokens = s.tokens;
    return rows;
  }
  static void skip(KvRows& rows, const Segment& s) {
    rows.k += s.tokens * rows.k_row_stride;
    rows.v += s.tokens * rows.v_row_stride;
  }

  std::shared_ptr<const PagedCall> call_;
  int n_kv_heads_;
  std::optional<RopeSettings> rope_;
};

[[noreturn]] void refuse(const std::string& what) {
  throw std::invalid_argument("attention: " + what);
}

std::string text(const mx::array& x) {
  std::string shape;
  for (int n : x.shape()) shape += fmt::format("{}{}", shape.empty() ? "" : ", ", n);
  return "[" + shape + "]";
}

void check(const mx::array& q, const mx::array& k, const mx::array& v,
           std::span<const Segment> segments, const AttentionOptions& options) {
  if (q.ndim() != 3 || k.ndim() != 3 || v.ndim() != 3)
    refuse("expected q, k and v with three axes");
  if (k.shape() != v.shape() || k.shape(0) != q.shape(0) || k.shape(2) != q.shape(2) ||
      k.shape(1) < 1 || q.shape(1) % k.shape(1) != 0)
    refuse(fmt::format("q {}, k {} and v {} do not go together", text(q), text(k),
                       text(v)));
  if (q.shape(2) < 1 || q.shape(2) > kMaxHeadDim)
    refuse(fmt::format("expected a head_dim of 1 to {}, found {}", kMaxHeadDim,
                       q.shape(2)));
  for (const mx::array& x : {q, k, v})
    if (x.dtype() != mx::float32) refuse("expected float32 for q, k and v");
  if (options.window < 0) refuse(fmt::format("window is {}", options.window));
  if (options.gate &&
      (options.gate->shape() != q.shape() || options.gate->dtype() != mx::float32))
    refuse(fmt::format("expected a float32 gate {}, found {}", text(q),
                       text(*options.gate)));
  std::int64_t rows = 0;
  for (const Segment& s : segments) {
    if (s.tokens < 0 || s.cached < 0)
      refuse(fmt::format("a segment of {} tokens behind {}", s.tokens, s.cached));
    rows += s.tokens;
  }
  if (rows != q.shape(0))
    refuse(fmt::format("segments have {} rows, q has {}", rows, q.shape(0)));
}

void check_pages(const KvPages& pages, const Segment& segment, int n_kv_heads,
                 int head_dim) {
  const std::int64_t tokens =
      static_cast<std::int64_t>(segment.cached) + segment.tokens;
  if (tokens > static_cast<std::int64_t>(pages.n_pages) * kPageTokens)
    refuse(fmt::format("{} tokens behind {} do not fit {} pages", segment.tokens,
                       segment.cached, pages.n_pages));
  if ((pages.float_pages > 0 && !pages.float_layout) ||
      (pages.n_pages > pages.float_pages && !pages.coded_layout))
    refuse("expected a layout for each kind of page");
  for (const KvLayout* layout : {pages.float_layout, pages.coded_layout})
    if (layout && (layout->n_kv_heads != n_kv_heads || layout->head_dim != head_dim))
      refuse(fmt::format("pages for {} heads of {} do not take {} of {}",
                         layout->n_kv_heads, layout->head_dim, n_kv_heads, head_dim));
}

void check_pages(const PagedCall& call, int n_kv_heads, int head_dim) {
  if (call.pages.size() != call.segments.size())
    refuse(fmt::format("pages of {} sequences for {} segments", call.pages.size(),
                       call.segments.size()));
  for (std::size_t i = 0; i < call.segments.size(); ++i)
    check_pages(call.pages[i].pages, call.segments[i], n_kv_heads, head_dim);
}

// With the table that kernels of a CUDA device want.
std::shared_ptr<const PagedCall> with_table(std::shared_ptr<const PagedCall> call) {
  if (call->table) return call;
  auto made = std::make_shared<PagedCall>(*call);
  made->table =
      std::make_shared<PageTable>(make_page_table(call->segments, call->pages));
  return made;
}

// True where kernels of ours run over these pages.
bool has_kernel(const PagedCall& call) {
  if (runs_on_cpu()) return true;
#ifdef OPTIQ_CUDA
  return has_device_pages(call);
#else
  static_cast<void>(call);
  return false;
#endif
}

Settings settings_of(std::span<const Segment> segments,
                     const AttentionOptions& options) {
  return {{segments.begin(), segments.end()},
          options.scale,
          options.window,
          options.causal,
          options.gate.has_value(),
          options.activation};
}

Fallback fallback_for(const Settings& s) {
  return [s](const Arrays& inputs) {
    return attention_fallback(inputs, s.segments, s.scale, s.window, s.causal,
                              s.has_gate);
  };
}

}  // namespace

mx::array attention(const mx::array& q, const mx::array& k, const mx::array& v,
                    std::span<const Segment> segments,
                    const AttentionOptions& options) {
  check(q, k, v, segments, options);
  for (const Segment& s : segments)
    if (s.cached != 0)
      refuse(fmt::format("{} cached tokens without a cache", s.cached));
  Arrays inputs{q, k, v};
  if (options.gate) inputs.push_back(*options.gate);
  Settings settings = settings_of(segments, options);
  Fallback fallback = fallback_for(settings);
  if (!runs_on_cpu()) return fallback(inputs)[0];
  return mx::array(
      q.shape(), mx::float32,
      std::make_shared<Attention>(std::move(fallback), std::move(settings)),
      std::move(inputs));
}

mx::array paged_attention(const mx::array& q, const mx::array& k, const mx::array& v,
                          std::shared_ptr<const PagedCall> call,
                          const AttentionOptions& options) {
  const std::vector<Segment>& segments = call->segments;
  check(q, k, v, segments, options);
  check_pages(*call, k.shape(1), k.shape(2));
  Arrays inputs{q, k, v};
  if (options.gate) inputs.push_back(*options.gate);
  Settings settings = settings_of(segments, options);
  std::optional<RopeSettings> rope;
  if (!runs_on_cpu() && has_kernel(*call)) {
    // The device's kernel may turn queries and keys itself.
    if (const auto turned = turned_heads(q, k)) {
      rope = turned->settings;
      std::copy_n(turned->inputs.begin(), 2, inputs.begin());
      inputs.insert(inputs.end(), turned->inputs.begin() + 2, turned->inputs.end());
    }
  }
  Fallback fallback = [s = settings, call, rope](const Arrays& in) {
    Arrays turned = in;
    if (rope) {
      Arrays of_rope{in[0], in[1]};
      of_rope.insert(of_rope.end(), in.begin() + (s.has_gate ? 4 : 3), in.end() - 1);
      const Arrays both = plain_rope(of_rope, *rope);
      std::copy(both.begin(), both.end(), turned.begin());
    }
    return paged_fallback(turned, call->segments, call->pages, s.scale, s.window,
                          s.causal, s.has_gate);
  };
  if (!has_kernel(*call)) return fallback(inputs)[0];
  if (!runs_on_cpu()) {
    call = with_table(std::move(call));
    inputs.push_back(call->table->words);
  }
  return mx::array(
      q.shape(), mx::float32,
      std::make_shared<PagedAttention>(std::move(fallback), std::move(settings),
                                       std::move(call), 0, rope),
      std::move(inputs));
}

mx::array attention_over_pages(const mx::array& q,
                               std::shared_ptr<const PagedCall> call, int n_kv_heads,
                               const AttentionOptions& options) {
  const std::vector<Segment>& segments = call->segments;
  check(q, q, q, segments, options);
  if (n_kv_heads < 1 || q.shape(1) % n_kv_heads != 0)
    refuse(fmt::format("q {} does not go with {} heads of keys", text(q), n_kv_heads));
  check_pages(*call, n_kv_heads, q.shape(2));
  if (!has_kernel(*call)) refuse("a GPU reads no such pages of another layer");
  Arrays inputs{q, q, q};
  if (options.gate) inputs.push_back(*options.gate);
  if (!runs_on_cpu()) {
    call = with_table(std::move(call));
    inputs.push_back(call->table->words);
  }
  Fallback no_gradient = [](const Arrays&) -> Arrays {
    refuse("pages of another layer have no gradient");
  };
  return mx::array(q.shape(), mx::float32,
                   std::make_shared<PagedAttention>(std::move(no_gradient),
                                                    settings_of(segments, options),
                                                    std::move(call), n_kv_heads),
                   std::move(inputs));
}

}  // namespace optiq::kernels
