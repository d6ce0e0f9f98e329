// libFuzzer: any text as a kv_config.json.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "optiq/base/error.h"
#include "optiq/cache/kv_config.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace optiq;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    for (const cache::LayerEntry& entry : cache::parse_kv_config(text, "fuzz"))
      if (entry.layer_idx < 0 || entry.formats.k.bits < 2 || entry.formats.v.bits < 2)
        std::abort();
  } catch (const CheckpointError& error) {
    if (std::string_view(error.what()).find('\n') != std::string_view::npos)
      std::abort();
  }
  return 0;
}
