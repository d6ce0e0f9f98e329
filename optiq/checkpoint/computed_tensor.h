// A tensor that is shown in another form than the files hold it.
#pragma once
#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "optiq/checkpoint/safetensors.h"

namespace optiq::checkpoint {

struct ComputedTensor {
  TensorInfo info;                   // as it is shown; its offset means nothing
  std::vector<std::string> sources;  // in the files, and not shown themselves

  /// Fills `values`, info.bytes, from the bytes of the sources in their order.
  ///
  /// Throws    CheckpointError
  std::function<void(std::span<const std::span<const std::byte>> sources,
                     std::span<std::byte> values)>
      compute;
};

}  // namespace optiq::checkpoint
