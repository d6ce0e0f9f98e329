// The base of our fused operations: an MLX primitive with a fallback of plain MLX ops.
//
// The fallback is the definition. Tests compare with it, gradients are its gradients,
// and it runs where we have no kernel (a GPU stream without one of ours).
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "mlx/array.h"
#include "mlx/primitives.h"
#include "mlx/stream.h"

namespace optiq::kernels {

namespace mx = mlx::core;

using Arrays = std::vector<mx::array>;
using Fallback = std::function<Arrays(const Arrays&)>;

class FusedPrimitive : public mx::Primitive {
 public:
  FusedPrimitive(mx::Stream stream, const char* name, Fallback fallback)
      : Primitive(stream), name_(name), fallback_(std::move(fallback)) {}

  void eval_gpu(const Arrays& inputs, Arrays& outputs) override;
  Arrays vjp(const Arrays& primals, const Arrays& cotangents,
             const std::vector<int>& argnums, const Arrays& outputs) override;
  Arrays jvp(const Arrays& primals, const Arrays& tangents,
             const std::vector<int>& argnums) override;
  const char* name() const override { return name_; }
  const Fallback& fallback() const { return fallback_; }

 protected:
  /// Runs `kernel` on the stream's thread after everything queued before it.
  void dispatch(std::function<void()> kernel);

  /// The array itself where its rows lie one after another, else a copy made on the
  /// stream before the kernel runs. Only for use inside eval_cpu.
  mx::array contiguous(const mx::array& x);

  /// Gives `out` memory of its own, where the stream's device has it.
  void allocate(mx::array& out);

  /// Gives `out` the memory of `in` if nobody else needs it; false where that is not
  /// so. With several outputs, after release_siblings.
  static bool donate(const mx::array& in, mx::array& out);

  /// Lets inputs be donated where there are several outputs: each of these holds the
  /// inputs in a list of its own, which MLX clears after eval_cpu and this before.
  /// Traced arrays keep theirs, for a gradient may still walk the graph.
  ///
  /// Requires  the arguments of eval_cpu, before the first donate.
  static void release_siblings(const Arrays& inputs, Arrays& outputs);

 private:
  const char* name_;
  Fallback fallback_;
};

/// True if a kernel for the CPU is to run: the default device is one.
bool runs_on_cpu();

/// True if kernels of ours run, on the CPU or on a CUDA device in builds for one; for
/// operations that have both.
bool runs_kernels();

/// The stream that fused operations run in.
mx::Stream fused_stream();

}  // namespace optiq::kernels
