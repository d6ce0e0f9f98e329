// One safetensors file in memory: mapped, or read tensor by tensor into huge pages.
#pragma once
#include <cstddef>
#include <filesystem>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "optiq/base/file.h"
#include "optiq/checkpoint/safetensors.h"

namespace optiq::checkpoint {

/// Where tensors' bytes are while they are used.
enum class Residency {
  kMapped,  // in the page cache: shared, evicted when memory is short
  kRead,    // in memory of ours with huge pages: no page faults, fewer TLB misses
};

/// Bytes of one tensor and what keeps them alive. Eight bytes before them are readable.
struct TensorBytes {
  std::span<const std::byte> bytes;
  std::shared_ptr<const void> owner;
  bool just_read;  // these bytes were read from the file by this call
};

class Shard : public std::enable_shared_from_this<Shard> {
 public:
  /// Maps the file and checks its header.
  ///
  /// Throws    CheckpointError, ResourceError.
  static std::shared_ptr<Shard> open(const std::filesystem::path& file,
                                     Residency residency);
  Shard(const Shard&) = delete;
  Shard& operator=(const Shard&) = delete;
  ~Shard();

  const std::vector<TensorInfo>& tensors() const { return header_.tensors; }
  const SafetensorsHeader& header() const { return header_; }

  /// The bytes of tensor `index`, aligned for their type. Mapped bytes are used where
  /// they are when aligned; all others are read once into their place in one arena and
  /// shared until the last owner goes, which gives their pages back.
  ///
  /// Throws    CheckpointError, ResourceError.
  /// Threads   any; two threads asking for one tensor read it once.
  TensorBytes bytes(std::size_t index);

  /// The bytes as they lie in the map, at any alignment.
  std::span<const std::byte> mapped_bytes(std::size_t index) const;

  const MappedFile& file() const { return *file_; }

 private:
  class Place;
  Shard() = default;
  void reserve_arena();

  std::shared_ptr<const MappedFile> file_;
  SafetensorsHeader header_;
  Residency residency_ = Residency::kMapped;
  std::mutex mutex_;
  std::vector<std::weak_ptr<Place>> places_;
  std::vector<std::size_t> arena_offsets_;
  std::byte* arena_ = nullptr;
  std::size_t arena_bytes_ = 0;
};

}  // namespace optiq::checkpoint
