#include "optiq/kernels/low_rank/low_rank_primitive.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>
#include <stdexcept>

#include "mlx/ops.h"
#include "optiq/kernels/fused_primitive.h"
#include "optiq/kernels/linear/weight_primitive.h"
#include "optiq/kernels/low_rank/low_rank.h"
#include "optiq/kernels/low_rank/low_rank_backward.h"
#ifdef OPTIQ_CUDA
#include "optiq/kernels/cuda_primitive.h"
#include "optiq/kernels/low_rank/low_rank_cuda.h"
#endif

namespace optiq::kernels {
namespace {

// Where an adapter's arrays are among the inputs; -1: there is none.
struct FactorSlots {
  int x = 0;  // what the matrices read
  int a = -1;
  int b = -1;
  int gain = -1;
  float scale = 1;
};

struct Part {
  int rows;
  int factors;  // an index; -1: none
};

// Where the arrays of one product are, and whose rows they are.
struct Layout {
  int y;
  std::vector<Part> parts;
  std::vector<FactorSlots> factors{};
  int residual = -1;
  int bias = -1;
};

mx::array at(const Arrays& in, int slot) { return in[static_cast<std::size_t>(slot)]; }

mx::array rows_of(const mx::array& x, int begin, int end) {
  if (begin == 0 && end == x.shape(0)) return x;
  return mx::slice(x, {begin, 0}, {end, x.shape(1)});
}

mx::array changed(const Arrays& in, const Layout& layout, const FactorSlots& f,
                  int begin, int end) {
  const auto as_float = [&](int slot) { return mx::astype(at(in, slot), mx::float32); };
  const mx::array h =
      mx::matmul(rows_of(at(in, f.x), begin, end), mx::transpose(as_float(f.a)));
  mx::array y = rows_of(at(in, layout.y), begin, end);
  const bool biased = f.gain >= 0 && layout.bias >= 0;
  if (biased) y = y - at(in, layout.bias);
  y = y + mx::matmul(f.scale * h, as_float(f.b));
  if (f.gain >= 0) y = at(in, f.gain) * y;
  return biased ? y + at(in, layout.bias) : y;
}

mx::array product(const Arrays& in, const Layout& layout) {
  std::vector<mx::array> pieces;
  int begin = 0;
  for (const Part& part : layout.parts) {
    const int end = begin + part.rows;
    pieces.push_back(
        part.factors < 0
            ? rows_of(at(in, layout.y), begin, end)
            : changed(in, layout,
                      layout.factors[static_cast<std::size_t>(part.factors)], begin,
                      end));
    begin = end;
  }
  mx::array y = pieces.size() == 1 ? pieces[0] : mx::concatenate(pieces, 0);
  if (layout.residual >= 0) y = y + at(in, layout.residual);
  return y;
}

// Inputs: x, a, b, the gradient by the result. Outputs: the gradients by x, a and b.
class LowRankBackward : public FusedPrimitive {
 public:
  LowRankBackward(Fallback fallback, float scale)
      : FusedPrimitive(fused_stream(), "LowRankBackward", std::move(fallback)),
        scale_(scale) {}

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    const auto data = [&](std::size_t i) {
      return contiguous(inputs[i]).data<float>();
    };
    for (mx::array& out : outputs) allocate(out);
    LowRankBackwardArgs args{};
    args.x = data(0);
    args.a = data(1);
    args.b = data(2);
    args.dy = data(3);
    args.dx = outputs[0].data<float>();
    args.da = outputs[1].data<float>();
    args.db = outputs[2].data<float>();
    args.M = inputs[0].shape(0);
    args.K = inputs[0].shape(1);
    args.N = inputs[3].shape(1);
    args.rank = inputs[1].shape(0);
    args.scale = scale_;
    dispatch([args] { low_rank_backward(args); });
  }

 private:
  float scale_;
};

// Inputs: x, then the arrays of each product. Outputs: the products.
class LowRankNode : public FusedPrimitive {
 public:
  LowRankNode(Fallback fallback, std::vector<Layout> layouts)
      : FusedPrimitive(fused_stream(), "LowRank", std::move(fallback)),
        layouts_(std::move(layouts)) {}

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    release_siblings(inputs, outputs);
    for (std::size_t i = 0; i < layouts_.size(); ++i)
      if (!donate(at(inputs, layouts_[i].y), outputs[i])) allocate(outputs[i]);
    const auto call = call_of(
        inputs, outputs, [&](const mx::array& x) { return contiguous(x); },
        host_address);
    dispatch([call] { low_rank(call->products); });
  }

#ifdef OPTIQ_CUDA
  void eval_gpu(const Arrays& inputs, Arrays& outputs) override {
    for (mx::array& out : outputs) allocate(out);
    CudaCall device(stream(), inputs, outputs);
    const auto call = call_of(
        inputs, outputs, [&](const mx::array& x) { return device.in_rows(x); },
        [](const mx::array& x) {
          return static_cast<const void*>(CudaCall::data<char>(x));
        });
    cuda::low_rank(call->products,
                   device.scratch(cuda::low_rank_scratch_bytes(call->products)),
                   device.launcher());
  }
#endif

  // One adapter of floats for all rows, as in training: with a kernel.
  Arrays vjp(const Arrays& primals, const Arrays& cotangents,
             const std::vector<int>& argnums, const Arrays& outputs) override {
    if (!runs_on_cpu() || !std::ranges::all_of(layouts_, [&](const Layout& layout) {
          return trains(primals, layout);
        }))
      return FusedPrimitive::vjp(primals, cotangents, argnums, outputs);
    std::map<int, mx::array> by_slot;
    for (std::size_t i = 0; i < layouts_.size(); ++i) {
      const Layout& layout = layouts_[i];
      const FactorSlots& f = layout.factors[0];
      const mx::array a = at(primals, f.a), b = at(primals, f.b);
      const auto gradients =
          mx::array::make_arrays({primals[0].shape(), a.shape(), b.shape()},
                                 {mx::float32, mx::float32, mx::float32},
                                 std::make_shared<LowRankBackward>(fallback(), f.scale),
                                 {primals[0], a, b, cotangents[i]});
      const auto [dx, is_first] = by_slot.try_emplace(0, gradients[0]);
      if (!is_first) dx->second = dx->second + gradients[0];
      by_slot.insert_or_assign(f.a, gradients[1]);
      by_slot.insert_or_assign(f.b, gradients[2]);
      by_slot.insert_or_assign(layout.y, cotangents[i]);
      if (layout.residual >= 0)
        by_slot.insert_or_assign(layout.residual, cotangents[i]);
    }
    Arrays wanted;
    for (const int argnum : argnums) wanted.push_back(by_slot.at(argnum));
    return wanted;
  }

 private:
  // Products, and what they point to.
  struct Call {
    struct Rows {
      std::vector<LowRankFactors> factors;
      std::vector<LowRankRows> rows;
    };
    std::vector<Rows> rows;
    std::vector<LowRankArgs> products;
  };

  template <class InRows>
  std::shared_ptr<Call> call_of(const Arrays& inputs, const Arrays& outputs,
                                InRows&& in_rows, Address address) const {
    auto call = std::make_shared<Call>();
    call->rows.resize(layouts_.size());
    call->products.resize(layouts_.size());
    const auto values = [&](int slot) { return address(in_rows(at(inputs, slot))); };
    const auto floats = [&](int slot) {
      return slot >= 0 ? static_cast<const float*>(values(slot)) : nullptr;
    };
    const float* x = floats(0);
    for (std::size_t i = 0; i < layouts_.size(); ++i) {
      const Layout& layout = layouts_[i];
      LowRankArgs& args = call->products[i];
      args.x = x;
      args.y = floats(layout.y);
      args.K = inputs[0].shape(1);
      args.N = outputs[i].shape(1);
      args.residual = floats(layout.residual);
      args.bias = floats(layout.bias);
      auto& [factors, rows] = call->rows[i];
      for (const FactorSlots& f : layout.factors) {
        const mx::array a = at(inputs, f.a), b = at(inputs, f.b);
        factors.push_back({values(f.a), values(f.b), float_type_of(a.dtype()),
                           float_type_of(b.dtype()), a.shape(0), f.scale,
                           floats(f.gain)});
      }
      int begin = 0;
      for (const Part& part : layout.parts) {
        rows.push_back({begin, begin + part.rows,
                        part.factors < 0
                            ? nullptr
                            : factors.data() + static_cast<std::size_t>(part.factors)});
        begin += part.rows;
      }
      args.rows = rows;
      args.out = static_cast<float*>(const_cast<void*>(address(outputs[i])));
    }
    return call;
  }

  static bool trains(const Arrays& primals, const Layout& layout) {
    if (layout.parts.size() != 1 || layout.factors.size() != 1) return false;
    const FactorSlots& f = layout.factors[0];
    return f.gain < 0 && layout.bias < 0 && at(primals, f.a).dtype() == mx::float32 &&
           at(primals, f.b).dtype() == mx::float32;
  }

  const std::vector<Layout> layouts_;
};

// True where a kernel of ours takes the call: on a GPU of few rows.
bool has_kernel([[maybe_unused]] const mx::array& x) {
  if (runs_on_cpu()) return true;
#ifdef OPTIQ_CUDA
  return x.shape(0) <= cuda::kMostLowRankRows;
#else
  return false;
#endif
}

void check(const mx::array& x, const LowRankProduct& product) {
  const int K = x.shape(1), N = product.y.shape(1);
  int rows = 0;
  for (const LowRankPart& part : product.parts) {
    rows += part.rows;
    const LowRank* f = part.factors;
    if (f && (f->a.ndim() != 2 || f->b.ndim() != 2 || f->a.shape(1) != K ||
              f->b.shape(1) != N || f->a.shape(0) != f->b.shape(0)))
      throw std::invalid_argument(
          fmt::format("[low_rank] expected matrices [rank, {}] and [rank, {}]", K, N));
  }
  if (rows != x.shape(0) || rows != product.y.shape(0))
    throw std::invalid_argument(fmt::format(
        "[low_rank] expected parts of {} rows together, found {}", x.shape(0), rows));
}

// Adds the arrays of a product to the inputs.
Layout laid_out(const mx::array& x, const LowRankProduct& product, Arrays& inputs) {
  const auto add = [&](const mx::array& array) {
    inputs.push_back(array);
    return static_cast<int>(inputs.size()) - 1;
  };
  Layout layout{add(product.y), {}};
  if (product.residual) layout.residual = add(*product.residual);
  if (product.bias) layout.bias = add(mx::astype(*product.bias, mx::float32));
  std::map<const LowRank*, int> known;
  for (const LowRankPart& part : product.parts) {
    int index = -1;
    if (const LowRank* f = part.factors) {
      const auto [place, is_new] =
          known.try_emplace(f, static_cast<int>(layout.factors.size()));
      index = place->second;
      if (is_new) {
        FactorSlots slots;
        if (f->input) slots.x = add(f->input(x));
        slots.a = add(f->a);
        slots.b = add(f->b);
        slots.scale = f->scale;
        if (f->gain) slots.gain = add(*f->gain);
        layout.factors.push_back(slots);
      }
    }
    layout.parts.push_back({part.rows, index});
  }
  return layout;
}

}  // namespace

std::vector<mx::array> low_rank(const mx::array& x,
                                const std::vector<LowRankProduct>& products) {
  Arrays inputs{x};
  std::vector<Layout> layouts;
  std::vector<mx::Shape> shapes;
  bool reads_x = true;  // and nothing in its place
  for (const LowRankProduct& product : products) {
    check(x, product);
    layouts.push_back(laid_out(x, product, inputs));
    shapes.push_back(product.y.shape());
    for (const FactorSlots& f : layouts.back().factors) reads_x = reads_x && f.x == 0;
  }
  Fallback fallback = [layouts](const Arrays& in) {
    Arrays out;
    for (const Layout& layout : layouts) out.push_back(product(in, layout));
    return out;
  };
  if (!reads_x || !has_kernel(x)) return fallback(inputs);
  return mx::array::make_arrays(
      std::move(shapes), std::vector<mx::Dtype>(products.size(), mx::float32),
      std::make_shared<LowRankNode>(std::move(fallback), std::move(layouts)), inputs);
}

}  // namespace optiq::kernels
