// How fast this machine reads memory, measured beside what depends on it.
#pragma once

namespace optiq::app {

/// The median of a few reads of a block larger than caches, by all threads.
///
/// Units     bytes per second
/// Cost      about 0.3 s and 256 MiB for its duration.
double read_bandwidth();

}  // namespace optiq::app
