#include "optiq/kernels/low_rank/low_rank_primitive.h"

#include <fmt/format.h>

#include <map>
#include <memory>
#include <stdexcept>

#include "mlx/ops.h"
#include "optiq/kernels/fused_primitive.h"
#include "optiq/kernels/linear/weight_primitive.h"
#include "optiq/kernels/low_rank/low_rank.h"
#include "optiq/kernels/low_rank/low_rank_backward.h"

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

// Inputs: x, y, then residual and bias where there are any, then each adapter's arrays.
struct Layout {
  std::vector<Part> parts;
  std::vector<FactorSlots> factors;
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
  mx::array y = rows_of(at(in, 1), begin, end);
  const bool biased = f.gain >= 0 && layout.bias >= 0;
  if (biased) y = y - at(in, layout.bias);
  y = y + mx::matmul(f.scale * h, as_float(f.b));
  if (f.gain >= 0) y = at(in, f.gain) * y;
  return biased ? y + at(in, layout.bias) : y;
}

Arrays fallback_low_rank(const Arrays& in, const Layout& layout) {
  std::vector<mx::array> pieces;
  int begin = 0;
  for (const Part& part : layout.parts) {
    const int end = begin + part.rows;
    pieces.push_back(
        part.factors < 0
            ? rows_of(at(in, 1), begin, end)
            : changed(in, layout,
                      layout.factors[static_cast<std::size_t>(part.factors)], begin,
                      end));
    begin = end;
  }
  mx::array y = pieces.size() == 1 ? pieces[0] : mx::concatenate(pieces, 0);
  if (layout.residual >= 0) y = y + at(in, layout.residual);
  return {y};
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

class LowRankNode : public FusedPrimitive {
 public:
  LowRankNode(Fallback fallback, Layout layout)
      : FusedPrimitive(fused_stream(), "LowRank", std::move(fallback)),
        layout_(std::move(layout)) {}

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    if (!donate(inputs[1], outputs[0])) allocate(outputs[0]);
    const auto data = [&](int slot) { return contiguous(at(inputs, slot)); };
    const mx::array x = data(0), y = data(1);
    LowRankArgs args;
    args.x = x.data<float>();
    args.y = y.data<float>();
    args.K = x.shape(1);
    args.N = y.shape(1);
    if (layout_.residual >= 0) args.residual = data(layout_.residual).data<float>();
    if (layout_.bias >= 0) args.bias = data(layout_.bias).data<float>();
    auto factors = std::make_shared<std::vector<LowRankFactors>>();
    for (const FactorSlots& f : layout_.factors) {
      const mx::array a = data(f.a), b = data(f.b);
      factors->push_back({a.data<char>(), b.data<char>(), float_type_of(a.dtype()),
                          float_type_of(b.dtype()), a.shape(0), f.scale,
                          f.gain >= 0 ? data(f.gain).data<float>() : nullptr});
    }
    auto rows = std::make_shared<std::vector<LowRankRows>>();
    int begin = 0;
    for (const Part& part : layout_.parts) {
      rows->push_back({begin, begin + part.rows,
                       part.factors < 0
                           ? nullptr
                           : factors->data() + static_cast<std::size_t>(part.factors)});
      begin += part.rows;
    }
    args.out = outputs[0].data<float>();
    dispatch([args, rows, factors] {
      low_rank(args, rows->data(), static_cast<int>(rows->size()));
    });
  }

  // One adapter of floats for all rows, as in training: with a kernel.
  Arrays vjp(const Arrays& primals, const Arrays& cotangents,
             const std::vector<int>& argnums, const Arrays& outputs) override {
    const bool alone = layout_.factors.size() == 1 && layout_.parts.size() == 1 &&
                       layout_.factors[0].gain < 0 && runs_on_cpu();
    if (!alone || at(primals, layout_.factors[0].a).dtype() != mx::float32 ||
        at(primals, layout_.factors[0].b).dtype() != mx::float32)
      return FusedPrimitive::vjp(primals, cotangents, argnums, outputs);
    const FactorSlots& f = layout_.factors[0];
    const mx::array a = at(primals, f.a), b = at(primals, f.b);
    const auto gradients =
        mx::array::make_arrays({primals[0].shape(), a.shape(), b.shape()},
                               {mx::float32, mx::float32, mx::float32},
                               std::make_shared<LowRankBackward>(fallback(), f.scale),
                               {primals[0], a, b, cotangents[0]});
    Arrays wanted;
    for (const int argnum : argnums)
      wanted.push_back(argnum == 0     ? gradients[0]
                       : argnum == f.a ? gradients[1]
                       : argnum == f.b ? gradients[2]
                                       : cotangents[0]);  // y and the residual
    return wanted;
  }

 private:
  const Layout layout_;
};

}  // namespace

mx::array low_rank(const mx::array& x, const mx::array& y,
                   std::span<const LowRankPart> parts, const LowRankOptions& options) {
  Layout layout;
  Arrays inputs{x, y};
  const auto add = [&](const mx::array& array) {
    inputs.push_back(array);
    return static_cast<int>(inputs.size()) - 1;
  };
  if (options.residual) layout.residual = add(*options.residual);
  if (options.bias) layout.bias = add(mx::astype(*options.bias, mx::float32));
  const int K = x.shape(1), N = y.shape(1);
  std::map<const LowRank*, int> known;
  bool reads_x = true;
  int rows = 0;
  for (const LowRankPart& part : parts) {
    rows += part.rows;
    int index = -1;
    if (const LowRank* f = part.factors) {
      if (f->a.ndim() != 2 || f->b.ndim() != 2 || f->a.shape(1) != K ||
          f->b.shape(1) != N || f->a.shape(0) != f->b.shape(0))
        throw std::invalid_argument(fmt::format(
            "[low_rank] expected matrices [rank, {}] and [rank, {}]", K, N));
      const auto [place, is_new] =
          known.try_emplace(f, static_cast<int>(layout.factors.size()));
      index = place->second;
      if (is_new) {
        FactorSlots slots;
        if (f->input) {
          slots.x = add(f->input(x));
          reads_x = false;
        }
        slots.a = add(f->a);
        slots.b = add(f->b);
        slots.scale = f->scale;
        if (f->gain) slots.gain = add(*f->gain);
        layout.factors.push_back(slots);
      }
    }
    layout.parts.push_back({part.rows, index});
  }
  if (rows != x.shape(0) || rows != y.shape(0))
    throw std::invalid_argument(fmt::format(
        "[low_rank] expected parts of {} rows together, found {}", x.shape(0), rows));
  Fallback fallback = [layout](const Arrays& in) {
    return fallback_low_rank(in, layout);
  };
  if (!reads_x || !runs_on_cpu()) return fallback(inputs)[0];
  return mx::array(
      y.shape(), mx::float32,
      std::make_shared<LowRankNode>(std::move(fallback), std::move(layout)), inputs);
}

}  // namespace optiq::kernels
