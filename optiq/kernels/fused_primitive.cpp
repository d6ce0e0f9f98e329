#include "optiq/kernels/fused_primitive.h"

#include <cstring>

#include "mlx/allocator.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/device.h"
#include "mlx/transforms.h"
#include "optiq/base/error.h"
#include "optiq/kernels/dispatch_tape.h"
#ifdef OPTIQ_CUDA
#include "optiq/kernels/device_memory.h"
#endif

namespace optiq::kernels {
namespace {

// Copies a strided array to rows that lie one after another.
void copy_strided(const char* source, char* target, const mx::Shape& shape,
                  const mx::Strides& strides, std::size_t itemsize, std::size_t axis) {
  if (axis == shape.size()) {
    std::memcpy(target, source, itemsize);
    return;
  }
  std::size_t inner = itemsize;
  for (std::size_t i = axis + 1; i < shape.size(); ++i)
    inner *= static_cast<std::size_t>(shape[i]);
  const auto step = strides[axis] * static_cast<std::int64_t>(itemsize);
  if (axis + 1 == shape.size() && step == static_cast<std::int64_t>(itemsize)) {
    std::memcpy(target, source, itemsize * static_cast<std::size_t>(shape[axis]));
    return;
  }
  for (int i = 0; i < shape[axis]; ++i)
    copy_strided(source + i * step, target + static_cast<std::size_t>(i) * inner, shape,
                 strides, itemsize, axis + 1);
}

}  // namespace

void FusedPrimitive::eval_gpu(const Arrays&, Arrays&) {
  throw ResourceError(std::string(name_) + ": this build has no GPU kernel for it");
}

Arrays FusedPrimitive::vjp(const Arrays& primals, const Arrays& cotangents,
                           const std::vector<int>& argnums, const Arrays&) {
  // Only the wanted inputs are variables: packed codes among the others have no
  // gradient, and MLX refuses to take one.
  const auto of_chosen = [&](const Arrays& values) {
    Arrays inputs = primals;
    for (std::size_t i = 0; i < argnums.size(); ++i)
      inputs[static_cast<std::size_t>(argnums[i])] = values[i];
    return fallback_(inputs);
  };
  Arrays chosen;
  for (int argnum : argnums) chosen.push_back(primals[static_cast<size_t>(argnum)]);
  return mx::vjp(of_chosen, chosen, cotangents).second;
}

Arrays FusedPrimitive::jvp(const Arrays& primals, const Arrays& tangents,
                           const std::vector<int>& argnums) {
  OPTIQ_CHECK(argnums.size() == primals.size(), "jvp wants a tangent for each input");
  return mx::jvp(fallback_, primals, tangents).second;
}

void FusedPrimitive::dispatch(std::function<void()> kernel) {
  if (DispatchTape* tape = TapeRecording::current()) tape->kernels_.push_back(kernel);
  mx::cpu::get_command_encoder(stream()).dispatch(std::move(kernel));
}

mx::array FusedPrimitive::contiguous(const mx::array& x) {
  if (x.flags().row_contiguous) return x;
  mx::array copy(x.shape(), x.dtype(), nullptr, {});
  allocate(copy);
  dispatch([source = x.data<char>(), target = copy.data<char>(), shape = x.shape(),
            strides = x.strides(), size = x.itemsize()] {
    copy_strided(source, target, shape, strides, size, 0);
  });
  mx::cpu::get_command_encoder(stream()).add_temporary(copy);
  return copy;
}

void FusedPrimitive::allocate(mx::array& out) {
#ifdef OPTIQ_CUDA
  const bool on_device = stream().device == mx::Device::gpu;
  out.set_data(on_device ? cuda::device_memory(out.nbytes())
                         : mx::allocator::malloc(out.nbytes()));
#else
  out.set_data(mx::allocator::malloc(out.nbytes()));
#endif
  if (DispatchTape* tape = TapeRecording::current()) tape->keep(out.data_shared_ptr());
}

bool FusedPrimitive::donate(const mx::array& in, mx::array& out) {
  if (!in.is_donatable() || !in.flags().row_contiguous ||
      in.itemsize() != out.itemsize() || in.size() != out.size())
    return false;
  out.copy_shared_buffer(in);
  return true;
}

void FusedPrimitive::release_siblings(const Arrays& inputs, Arrays& outputs) {
  for (const mx::array& out : outputs)
    if (out.is_tracer()) return;
  for (mx::array& out : outputs)
    if (&out.inputs() != &inputs) out.inputs().clear();
}

bool runs_on_cpu() { return mx::default_device() == mx::Device::cpu; }

bool runs_kernels() {
#ifdef OPTIQ_CUDA
  return true;
#else
  return runs_on_cpu();
#endif
}

mx::Stream fused_stream() { return mx::default_stream(mx::default_device()); }

}  // namespace optiq::kernels
