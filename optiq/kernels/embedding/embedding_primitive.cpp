#include "optiq/kernels/embedding/embedding_primitive.h"

#include <stdexcept>

#include "mlx/ops.h"
#include "optiq/kernels/embedding/embedding.h"
#include "optiq/kernels/linear/weight_primitive.h"
#ifdef OPTIQ_CUDA
#include "optiq/kernels/cuda_primitive.h"
#include "optiq/kernels/embedding/embedding_cuda.h"
#endif

namespace optiq::kernels {
namespace {

// Inputs: the weight's arrays, then ids where only some rows are wanted.
class Rows : public FusedPrimitive {
 public:
  Rows(Fallback fallback, const WeightSlots& slots, bool has_ids)
      : FusedPrimitive(fused_stream(), "Rows", std::move(fallback)),
        slots_(slots),
        has_ids_(has_ids) {}

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    allocate(outputs[0]);
    const MatrixView view =
        view_of(inputs, slots_, [&](const mx::array& x) { return contiguous(x); });
    const std::int32_t* ids =
        has_ids_ ? contiguous(inputs.back()).data<std::int32_t>() : nullptr;
    dispatch([view, ids, rows = outputs[0].shape(0), y = outputs[0].data<float>()] {
      dequantize_rows(view, ids, rows, y);
    });
  }

#ifdef OPTIQ_CUDA
  void eval_gpu(const Arrays& inputs, Arrays& outputs) override {
    CudaCall call(stream(), inputs, outputs);
    allocate(outputs[0]);
    const MatrixView view = view_of(
        inputs, slots_, [&](const mx::array& x) { return call.in_rows(x); },
        [](const mx::array& x) -> const void* { return CudaCall::data<char>(x); });
    cuda::dequantize_rows(
        view, has_ids_ ? call.values<std::int32_t>(inputs.back()) : nullptr,
        outputs[0].shape(0), CudaCall::data<float>(outputs[0]), call.launcher());
  }
#endif

 private:
  WeightSlots slots_;
  bool has_ids_;
};

LinearWeight without_bias(LinearWeight w) {
  w.bias = std::nullopt;
  return w;
}

}  // namespace

mx::array dequantized(const LinearWeight& w) {
  Arrays inputs;
  const WeightSlots slots = append_weight(without_bias(w), inputs);
  Fallback fallback = [slots](const Arrays& in) -> Arrays {
    return {plain_dequantized(in, slots)};
  };
  if (!runs_on_cpu() || !w.quantized()) return fallback(inputs)[0];
  return mx::array({w.output_dim(), w.input_dim()}, mx::float32,
                   std::make_shared<Rows>(std::move(fallback), slots, false), inputs);
}

mx::array embedding(const mx::array& ids, const LinearWeight& table) {
  if (ids.ndim() != 1 || !mx::issubdtype(ids.dtype(), mx::integer))
    throw std::invalid_argument("[embedding] expected ids [T] of whole numbers");
  Arrays inputs;
  const WeightSlots slots = append_weight(without_bias(table), inputs);
  inputs.push_back(mx::astype(ids, mx::int32));
  Fallback fallback = [slots](const Arrays& in) -> Arrays {
    Arrays rows;
    for (std::size_t i = 0; i + 1 < in.size(); ++i)
      rows.push_back(mx::take(in[i], in.back(), 0));
    return {plain_dequantized(rows, slots)};
  };
  if (!runs_kernels()) return fallback(inputs)[0];
  return mx::array({ids.shape(0), table.input_dim()}, mx::float32,
                   std::make_shared<Rows>(std::move(fallback), slots, true), inputs);
}

}  // namespace optiq::kernels
