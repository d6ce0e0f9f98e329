// How much memory the machine has and this process holds.
#pragma once
#include <cstdint>

namespace optiq {

/// The most memory this process ever held resident; 0 where the system does not say.
std::uint64_t peak_rss_bytes();

/// What it holds now.
std::uint64_t current_rss_bytes();

/// What it may still take without pushing others out: of the machine, or of the
/// process's control group where that is less.
std::uint64_t available_memory_bytes();

/// The memory of the machine, or of the control group where that is less.
std::uint64_t physical_memory_bytes();

/// Tells the allocator to keep up to `bytes` of freed memory rather than to give it
/// back at once: activations are freed and taken again at every step, and fresh pages
/// cost more than the arithmetic on them. Without effect where the C library has no
/// such setting.
void keep_freed_memory(std::uint64_t bytes);

}  // namespace optiq
