#include "optiq/kernels/linear/input_rows.h"

#include <algorithm>

#include "optiq/base/error.h"
#include "optiq/base/parallel.h"
#include "optiq/kernels/linear/scratch.h"

namespace optiq::kernels {
namespace {

thread_local Scratch memory;

bool same_form(const InputRows& a, const InputRows& b) {
  return a.exact == b.exact && a.bits == b.bits && a.group_size == b.group_size;
}

template <class T>
void place(char* base, std::size_t& at, T*& pointer, std::int64_t n) {
  if (base) pointer = reinterpret_cast<T*>(base + at);
  at += (static_cast<std::size_t>(n) * sizeof(T) + 63) / 64 * 64;
}

// Gives the form its arrays from base + at on (null: only counts) and moves `at`.
void place_arrays(char* base, std::size_t& at, InputRows& form) {
  if (form.exact) return place(base, at, form.values, form.M * form.stride);
  const std::int64_t groups = std::int64_t{form.M} * form.groups;
  place(base, at, form.codes, form.M * form.stride);
  place(base, at, form.steps, groups);
  place(base, at, form.sums, groups);
  place(base, at, form.whole_sums, groups);
}

}  // namespace

InputForms::InputForms(const LinearKernels& kernels, const float* x, int M, int K,
                       Activation activation)
    : kernels_(kernels), x_(x), M_(M), K_(K), activation_(activation) {}

InputRows InputForms::describe(const MatrixView& w) const {
  InputRows form;
  form.M = M_;
  form.K = K_;
  form.few = M_ <= kFewRows;
  form.exact = activation_ == Activation::kExact || !has_int8(w);
  const bool coded = w.quantized() && w.spec.mode == QuantMode::kAffine;
  form.bits = coded ? w.spec.bits : 0;
  if (form.exact) {
    form.stride = (std::int64_t{K_} + 127) / 128 * 128;
    if (form.bits == 8) form.bits = 0;  // the natural order, too
  } else {
    form.group_size = w.spec.group_size;
    form.groups = (K_ / form.group_size + kChains - 1) / kChains * kChains;
    form.stride = std::int64_t{form.groups} * form.group_size;
  }
  return form;
}

void InputForms::want(const MatrixView& w) {
  const InputRows form = describe(w);
  if (std::ranges::none_of(forms_,
                           [&](const InputRows& f) { return same_form(f, form); }))
    forms_.push_back(form);
}

void InputForms::fill() {
  std::size_t size = 0;
  for (InputRows& form : forms_) place_arrays(nullptr, size, form);
  char* base = static_cast<char*>(memory.get(size));
  size = 0;
  for (InputRows& form : forms_) place_arrays(base, size, form);
  // Rows that outweigh the claim of a chunk; a few rows are done where they are.
  const auto grain = static_cast<std::size_t>(std::max(1, 16384 / std::max(1, K_)));
  parallel_ranges(
      static_cast<std::size_t>(M_), grain, [&](std::size_t begin, std::size_t end) {
        for (std::size_t m = begin; m < end; ++m)
          for (const InputRows& form : forms_)
            (form.exact ? kernels_.arrange_row : kernels_.round_row)(
                x_ + static_cast<std::int64_t>(m) * K_, form, static_cast<int>(m));
      });
}

const InputRows& InputForms::form_for(const MatrixView& w) const {
  const InputRows wanted = describe(w);
  for (const InputRows& form : forms_)
    if (same_form(form, wanted)) return form;
  OPTIQ_CHECK(false, "a product without its form of x");
}

}  // namespace optiq::kernels
