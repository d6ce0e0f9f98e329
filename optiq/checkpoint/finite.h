// Finds NaN and infinity in stored weights at the speed of memory.
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "optiq/checkpoint/data_type.h"
#include "optiq/kernels/quant_mode.h"

namespace optiq::checkpoint {

/// The index of the first element that is NaN or infinite; none for types without such
/// values (integers).
///
/// Cost      one read of the bytes; measured beside memcpy in
/// docs/formats/checkpoint.md.
std::optional<std::uint64_t> find_not_finite(std::span<const std::byte> bytes,
                                             DataType dtype);

/// The index of the first one-byte scale of an mx or nv format that is NaN: 255 in
/// e8m0, 127 and 255 in e4m3. None for modes whose scales are floats.
std::optional<std::uint64_t> find_nan_scale(std::span<const std::byte> bytes,
                                            QuantMode mode);

}  // namespace optiq::checkpoint
