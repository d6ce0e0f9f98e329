// Attention over pages in a CUDA device's memory: attention.h's contract.
#pragma once
#include <cstddef>

#include "optiq/kernels/kv_page/kv_page_cuda.h"
#include "optiq/kernels/linear/activation.h"

namespace optiq::kernels::cuda {

/// One call over pages, which the call's own keys and values enter first.
///
/// Shapes    gate [rows, n_heads, D] strided; y [rows, n_heads, D]
struct PagedAttentionArgs {
  PageForm form;
  PagedBatch batch;
  EnteringHeads heads;  // q, and k, v where they are not in the pages yet
  HeadRows gate;        // null data: no gate
  float* y;
  int rows, n_heads;
  float scale;
  int window;  // 0: all
  bool causal;
  Activation activation;
  // Of all sequences, what the host knows of them.
  int most_tokens;  // rows of a sequence
  int most_keys;    // tokens behind which and with which a sequence is then
  bool some_many;   // a sequence has more than kFewTokens rows
  bool some_few;    // a sequence has that many or fewer
};

/// Rows of a sequence up to which its context is shared out among blocks.
inline constexpr int kFewTokens = 16;

/// Bytes on the device that a call needs besides.
std::size_t attention_scratch_bytes(const PagedAttentionArgs& args);

/// y = softmax(scale q k^T + mask) v, times sigmoid(gate) where there is one.
///
/// kInt8 multiplies in half precision with float32 sums: queries, decoded keys and
/// values, and weights are rounded to 11 bits. kExact is float32 throughout, slowly.
///
/// Requires  has_pages(form); scratch, 16 bytes aligned
/// Cost      few rows: bound by the bytes of the pages, read once for up to 16 rows of
///           a group of heads; many: by multiply-adds
/// Source    as attention.h
void attention(const PagedAttentionArgs& args, void* scratch, const Launcher& launch);

}  // namespace optiq::kernels::cuda
