#include "optiq/kernels/linear/input_rows.h"

#include <algorithm>
#include <cstring>

#include "optiq/base/error.h"
#include "optiq/base/parallel.h"
#include "optiq/kernels/linear/scratch.h"

namespace optiq::kernels {
namespace {

thread_local Scratch memory;

bool same_form(const InputRows& a, const InputRows& b) {
  return a.exact == b.exact && a.bits == b.bits && a.group_size == b.group_size;
}

std::int64_t padded_rows(const InputRows& form) {
  return (std::int64_t{form.M} + form.together - 1) / form.together * form.together;
}

template <class T>
void place(char* base, std::size_t& at, T*& pointer, std::int64_t n) {
  if (base) pointer = reinterpret_cast<T*>(base + at);
  at += (static_cast<std::size_t>(n) * sizeof(T) + 63) / 64 * 64;
}

// Gives the form its arrays from base + at on (null: only counts) and moves `at`.
void place_arrays(char* base, std::size_t& at, InputRows& form) {
  if (form.exact) return place(base, at, form.values, form.M * form.stride);
  const std::int64_t rows = padded_rows(form), groups = rows * form.groups;
  place(base, at, form.codes, rows * form.stride);
  place(base, at, form.steps, groups);
  place(base, at, form.sums, groups);
  place(base, at, form.whole_sums, groups);
}

// Rounds the rows from m on that lie together; rows past the last are zeros.
void round_together(const LinearKernels& kernels, const float* x, const InputRows& form,
                    int m) {
  thread_local Scratch scratch;
  const auto row_bytes =
      static_cast<std::size_t>(form.groups) * static_cast<std::size_t>(form.group_size);
  const auto rows = static_cast<std::size_t>(form.together);
  const std::int64_t at = std::int64_t{m} * form.groups;
  InputRows apart = form;
  apart.codes = static_cast<std::int8_t*>(scratch.get(rows * row_bytes));
  apart.stride = static_cast<std::int64_t>(row_bytes);
  apart.steps += at;
  apart.sums += at;
  apart.whole_sums += at;
  const int real = std::min(form.together, form.M - m);
  if (real < form.together) {
    std::memset(apart.codes, 0, rows * row_bytes);
    const auto n = rows * static_cast<std::size_t>(form.groups);
    std::fill_n(apart.steps, n, 0.0f);
    std::fill_n(apart.sums, n, 0.0f);
  }
  for (int i = 0; i < real; ++i)
    kernels.round_row(x + std::int64_t{m + i} * form.K, apart, i);
  kernels.interleave(apart.codes, apart.stride, form.codes + m * form.stride);
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
    if (!form.few) form.together = kernels_.int8_many_rows;
    // Rows that lie together go by a chain at a time: one chain's length more, or whole
    // powers of two would put the same chain of all rows into a few sets of a cache.
    if (form.together > 1) form.stride += form.stride / kChains;
  }
  return form;
}

void InputForms::want(const MatrixView& w) {
  const InputRows form = describe(w);
  if (std::ranges::none_of(forms_,
                           [&](const InputRows& f) { return same_form(f, form); }))
    forms_.push_back(form);
}

std::size_t InputForms::bytes() const {
  std::size_t size = 0;
  for (InputRows form : forms_) place_arrays(nullptr, size, form);
  return size;
}

void InputForms::place(char* base) {
  std::size_t size = 0;
  for (InputRows& form : forms_) place_arrays(base, size, form);
}

void InputForms::fill_rows(int begin, int end) {
  for (const InputRows& form : forms_)
    for (int m = begin; m < end; m += form.together) {
      if (form.together > 1)
        round_together(kernels_, x_, form, m);
      else
        (form.exact ? kernels_.arrange_row : kernels_.round_row)(
            x_ + std::int64_t{m} * K_, form, m);
    }
}

void InputForms::fill() {
  place(static_cast<char*>(memory.get(bytes())));
  // Rows that outweigh the claim of a chunk; a few rows are done where they are.
  const int together = kernels_.int8_many_rows;
  const int wanted = std::max(1, 16384 / std::max(1, K_));
  const auto grain =
      static_cast<std::size_t>((wanted + together - 1) / together * together);
  parallel_ranges(static_cast<std::size_t>(M_), grain,
                  [&](std::size_t begin, std::size_t end) {
                    fill_rows(static_cast<int>(begin), static_cast<int>(end));
                  });
}

const InputRows& InputForms::form_for(const MatrixView& w) const {
  const InputRows wanted = describe(w);
  for (const InputRows& form : forms_)
    if (same_form(form, wanted)) return form;
  OPTIQ_CHECK(false, "a product without its form of x");
}

}  // namespace optiq::kernels
