// Values of evaluated arrays, wherever these lie: to and from the host, and copied.
#pragma once
#include <cstddef>

#include "mlx/array.h"

namespace optiq::kernels {

namespace mx = mlx::core;

/// Puts values where an array lies that others know (taped kernels, other layers).
///
/// Requires  x evaluated, its rows one after another, nobody at work on it; as many
///           bytes at `values`
void overwrite(mx::array& x, const void* values);

/// While it lives, what this thread overwrites with values of its own is only on its
/// way there, in front of the kernels of a tape that is replayed next.
class QueuedWrites {
 public:
  QueuedWrites();
  QueuedWrites(const QueuedWrites&) = delete;
  QueuedWrites& operator=(const QueuedWrites&) = delete;
  ~QueuedWrites();
};

/// Bytes of an array to the host, behind a tape that has been replayed.
void read(const mx::array& from, std::size_t first, std::size_t bytes, void* to);

/// A copy that the host reads at its own speed.
mx::array on_host(const mx::array& x);

/// The same of another array's values, of as many bytes, wherever those lie.
void overwrite(mx::array& x, const mx::array& values);

/// A copy of an evaluated array in memory of its own, where kernels read it at theirs.
///
/// Requires  its rows one after another
mx::array copy_of(const mx::array& x);

/// Where an evaluated array lies for the kernels of the default device.
const void* address_of(const mx::array& x);

/// An evaluated array of the host where kernels read it at theirs: itself, or a copy in
/// the device's memory.
mx::array beside_kernels(const mx::array& x);

}  // namespace optiq::kernels
