// Where a prompt is cut into calls, so that the cuts leave no trace in what is
// computed.
#pragma once
#include <span>

namespace optiq::generation {

/// Recurrent layers read calls of many tokens in chunks, and the chunks of a call begin
/// where it begins. So calls begin at multiples of this, whatever the load and whatever
/// was cached, and the last few tokens are always a call of their own.
inline constexpr int kCutTokens = 64;

/// The last place from which a prompt of `length` tokens may go on: what a prompt of
/// the same beginning can take from the prefix cache.
inline int last_cut(int length) { return (length - 1) / kCutTokens * kCutTokens; }

/// The end of the call that begins at `begin`.
///
/// Requires  begin < length; rows >= 1; `stops` ascending
/// Returns   at most `rows` tokens further, rounded up to a cut; no further than the
///           next of `stops`, nor, where the layers are `recurrent`, than last_cut()
///           unless it begins there
inline int cut_end(int begin, int length, int rows, bool recurrent,
                   std::span<const int> stops) {
  int end = (begin + rows + kCutTokens - 1) / kCutTokens * kCutTokens;
  if (!recurrent) return begin + rows < length ? begin + rows : length;
  const int last = last_cut(length);
  if (begin >= last) return length;
  if (end > last) end = last;
  for (const int stop : stops)
    if (stop > begin && stop < end) return stop;
  return end;
}

}  // namespace optiq::generation
