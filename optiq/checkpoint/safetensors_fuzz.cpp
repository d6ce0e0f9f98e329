// libFuzzer: any bytes as a safetensors file.
#include <cstdint>
#include <cstdlib>

#include "optiq/base/error.h"
#include "optiq/checkpoint/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace optiq;
  // Random bytes hardly ever hold a length that fits: the fuzzer's bytes are the
  // header, but for inputs that say so with their first byte.
  std::vector<std::byte> bytes;
  if (size > 0 && data[0] == '#') {
    for (std::size_t i = 1; i < size; ++i) bytes.push_back(std::byte{data[i]});
  } else {
    constexpr std::size_t kDataBytes = 64;
    for (int i = 0; i < 8; ++i)
      bytes.push_back(
          static_cast<std::byte>(static_cast<std::uint64_t>(size) >> (8 * i)));
    for (std::size_t i = 0; i < size; ++i) bytes.push_back(std::byte{data[i]});
    bytes.resize(bytes.size() + kDataBytes);
  }
  try {
    const auto header = checkpoint::parse_safetensors_header(bytes, "fuzz");
    for (const auto& tensor : header.tensors)
      if (tensor.offset > bytes.size() || tensor.bytes > bytes.size() - tensor.offset)
        std::abort();
  } catch (const CheckpointError&) {
  }
  return 0;
}
