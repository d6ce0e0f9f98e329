// An mx::array over memory that somebody else owns, without a copy on the CPU.
#pragma once
#include <cstddef>
#include <memory>

#include "mlx/mlx.h"

namespace optiq::checkpoint {

namespace mx = mlx::core;

/// Bytes that must be readable (not meaningful) before the data of a borrowed array.
inline constexpr std::size_t kBorrowedPrefixBytes = 8;

/// An array of `dtype` and `shape` over `data`, which `owner` keeps alive.
///
/// Requires  data aligned for dtype; kBorrowedPrefixBytes readable bytes before it.
///           MLX never writes to it: only arrays that own their memory are donated.
/// Cost      none on the CPU back end; where the back end keeps weights elsewhere
///           (CUDA), its own copy, unless only the host is to read it (`for_host`).
mx::array borrowed_array(const std::byte* data, mx::Shape shape, mx::Dtype dtype,
                         std::shared_ptr<const void> owner, bool for_host = false);

}  // namespace optiq::checkpoint
