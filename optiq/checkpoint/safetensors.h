// The safetensors file: eight bytes of length, a JSON header, the tensors' bytes.
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "optiq/checkpoint/data_type.h"

namespace optiq::checkpoint {

/// Where one tensor lies.
struct TensorInfo {
  std::string name;
  DataType dtype;
  std::vector<std::int64_t> shape;
  std::filesystem::path file;
  std::uint64_t offset;  // from the start of the file
  std::uint64_t bytes;
};

struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;  // by offset
  std::map<std::string, std::string> metadata;
};

/// Reads the header of a file's bytes and proves that every tensor lies inside, that
/// its shape and type give its size, and that tensors neither overlap nor leave holes.
///
/// Throws    CheckpointError naming the file and the tensor.
/// Cost      O(header); the tensors' bytes are not touched.
/// Source    the safetensors format description; its header limit of 100 MB.
SafetensorsHeader parse_safetensors_header(std::span<const std::byte> bytes,
                                           const std::filesystem::path& file);

/// "BF16 [512, 128]", for messages.
std::string describe(DataType dtype, std::span<const std::int64_t> shape);

/// What a writer is told before the bytes: the header comes first in the file.
struct TensorEntry {
  std::string name;
  DataType dtype;
  std::vector<std::int64_t> shape;
};

/// The size that a file of these tensors has, header counted.
std::uint64_t safetensors_file_bytes(
    std::span<const TensorEntry> entries,
    const std::map<std::string, std::string>& metadata);

/// Writes one safetensors file tensor by tensor, in any order, so that a model is never
/// held whole. Tensors lie by falling element size from a 64-byte boundary on, so each
/// is aligned for its type and can be used from a map.
class SafetensorsWriter {
 public:
  /// Requires  unique names; whole bytes for every shape.
  /// Throws    std::invalid_argument; ResourceError if the file cannot be made.
  SafetensorsWriter(std::filesystem::path file, std::span<const TensorEntry> entries,
                    const std::map<std::string, std::string>& metadata);
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;
  ~SafetensorsWriter();

  /// Writes one tensor's bytes, row-major, little-endian.
  ///
  /// Throws    std::invalid_argument for an unknown name, a second write, or a wrong
  ///           size; ResourceError if the disk is full.
  void write(const std::string& name, std::span<const std::byte> bytes);

  /// Flushes and closes.
  ///
  /// Throws    std::invalid_argument if a tensor was not written; ResourceError.
  void finish();

 private:
  struct Place {
    std::uint64_t offset;
    std::uint64_t bytes;
    bool written;
  };
  std::filesystem::path file_;
  int fd_ = -1;
  std::map<std::string, Place> places_;
};

}  // namespace optiq::checkpoint
