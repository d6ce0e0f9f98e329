// A model's directory: config.json and the tensors of all its safetensors files.
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "mlx/mlx.h"
#include "optiq/checkpoint/computed_tensor.h"
#include "optiq/checkpoint/expert_tensors.h"
#include "optiq/checkpoint/safetensors.h"
#include "optiq/checkpoint/shard.h"
#include "optiq/kernels/quant_mode.h"

namespace optiq::checkpoint {

namespace mx = mlx::core;

struct OpenOptions {
  Residency residency = Residency::kRead;
  bool check_finite =
      true;  // a tensor with NaN or infinity is an error when it is used
  bool packed_as_floats = false;  // what GPTQ and others packed (packed_tensors.h)
  // No kernel on a device reads a tensor before it is copied there (host_primitive.h).
  bool for_host = false;
};

/// Experts are seen in one form however the files store them (expert_tensors.h),
/// matrices of 8-bit floats with scales in bfloat16 (scaled_tensors.h), and what GPTQ,
/// AWQ and compressed-tensors packed in MLX's format (packed_tensors.h).
///
/// Cheap to copy; arrays it gave outlive it. Threads: const calls from any.
class Checkpoint {
 public:
  /// Reads config.json and the headers of `model*.safetensors`, as listed in
  /// `model.safetensors.index.json` where that is there. No tensor is read.
  ///
  /// Throws    CheckpointError naming the file (and tensor): a missing shard, a tensor
  ///           listed but not there, or there twice, a bad header; ResourceError.
  static Checkpoint open(const std::filesystem::path& directory,
                         OpenOptions options = {});

  /// One safetensors file alone, with an empty config.
  ///
  /// Throws    as open()
  static Checkpoint open_file(const std::filesystem::path& file,
                              OpenOptions options = {});

  const std::filesystem::path& directory() const { return directory_; }
  const nlohmann::json& config() const { return *config_; }  // config.json as it is

  std::vector<std::string> names() const;  // sorted
  const TensorInfo* find(std::string_view name) const;
  bool contains(std::string_view name) const { return find(name) != nullptr; }

  /// As find(), but CheckpointError if the tensor is missing.
  const TensorInfo& info(std::string_view name) const;

  /// The tensor over the mapped or read bytes, without a further copy on the CPU.
  ///
  /// Throws    CheckpointError if it is missing, of a type MLX does not have, or not
  ///           finite (where OpenOptions ask); ResourceError.
  /// Cost      kMapped: page faults; kRead: one read. Plus the check at memory speed,
  ///           on the first use of the bytes. Experts of several tensors are copied,
  ///           and other forms are computed, each time.
  mx::array tensor(std::string_view name) const;

  /// As tensor(), but CheckpointError unless the shape is the expected one.
  mx::array require(std::string_view name, std::span<const std::int64_t> shape) const;
  mx::array require(std::string_view name,
                    std::initializer_list<std::int64_t> shape) const;

  /// The tensor's bytes in the map, for one pass over a model that does not fit.
  ///
  /// Requires  a tensor that lies in one piece
  std::span<const std::byte> mapped_bytes(std::string_view name) const;

  /// Gives the pages of mapped_bytes() back to the system.
  void release(std::string_view name) const;

  /// CheckpointError if a float tensor holds NaN or infinity, with its index.
  void check_finite(std::string_view name) const;

  /// The same for the one-byte scales of a mode (NaN codes).
  void check_scales(std::string_view name, QuantMode mode) const;

  std::uint64_t tensor_bytes() const;  // of all tensors
  std::vector<std::filesystem::path> files() const;

  /// `format` of the safetensors metadata ("pt", "mlx", ...); empty if none is given.
  std::string format() const;

 private:
  void add_shards(const std::vector<std::filesystem::path>& files);

  struct Entry {
    std::shared_ptr<Shard> shard;
    std::size_t index;  // in the shard
  };
  // Tensors in another form, and what they are made of, which is not shown.
  struct Gathered {
    std::map<std::string, GatheredTensor> by_name;
    std::set<std::string, std::less<>> sources;
  };
  struct Computed {
    std::map<std::string, ComputedTensor, std::less<>> by_name;
    std::set<std::string, std::less<>> sources;
  };
  const Entry& entry(std::string_view name) const;
  mx::array piece(std::string_view name) const;
  mx::array gathered(const GatheredTensor& tensor) const;
  const GatheredTensor* find_gathered(std::string_view name) const;
  void gather();
  std::vector<const TensorInfo*> ungathered() const;
  void find_computed();
  std::string_view source_of(std::string_view name) const;
  void release_stored(std::string_view name) const;
  const ComputedTensor* find_computed(std::string_view name) const;
  mx::array computed(const ComputedTensor& tensor) const;

  std::filesystem::path directory_;
  OpenOptions options_;
  std::shared_ptr<const nlohmann::json> config_;
  std::vector<std::shared_ptr<Shard>> shards_;
  std::shared_ptr<const std::map<std::string, Entry, std::less<>>> entries_;
  std::shared_ptr<const Gathered> gathered_;  // none if there are no such
  std::shared_ptr<const Computed> computed_;
};

}  // namespace optiq::checkpoint
