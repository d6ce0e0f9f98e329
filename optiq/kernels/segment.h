// A ragged batch: the rows of one call that belong to one sequence.
#pragma once

namespace optiq::kernels {

/// Rows are laid end to end, sequence after sequence: a batch of several sequences is
/// one array of T rows, T the sum of `tokens`.
struct Segment {
  int tokens = 0;  // rows of this call
  int cached = 0;  // tokens of the sequence that came in earlier calls
};

}  // namespace optiq::kernels
