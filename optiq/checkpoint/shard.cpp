#include "optiq/checkpoint/shard.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "optiq/base/error.h"
#include "optiq/checkpoint/borrowed_array.h"

namespace optiq::checkpoint {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::size_t kAlignment = 64;  // a cache line, and the widest vector

std::size_t round_up(std::size_t value, std::size_t to) {
  return (value + to - 1) / to * to;
}

}  // namespace

// A tensor's bytes in the arena; the pages wholly its own go back to the system with
// it.
class Shard::Place {
 public:
  Place(std::shared_ptr<Shard> shard, std::byte* data, std::size_t bytes)
      : shard_(std::move(shard)), data_(data), bytes_(bytes) {}
  ~Place() {
    const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
    const auto begin =
        (reinterpret_cast<std::uintptr_t>(data_) + page - 1) / page * page;
    const auto end = (reinterpret_cast<std::uintptr_t>(data_) + bytes_) / page * page;
    if (begin < end)
      ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
  }

  // True in the call that read.
  bool read(const TensorInfo& tensor) {
    bool reads = false;
    std::call_once(once_, [&] {
      shard_->file_->read(tensor.offset, {data_, bytes_});
      reads = true;
    });
    return reads;
  }

  std::span<const std::byte> bytes() const { return {data_, bytes_}; }

 private:
  std::shared_ptr<Shard> shard_;
  std::byte* data_;
  std::size_t bytes_;
  std::once_flag once_;
};

std::shared_ptr<Shard> Shard::open(const std::filesystem::path& file,
                                   Residency residency) {
  const std::shared_ptr<Shard> shard(new Shard);
  shard->file_ = MappedFile::open(file);
  shard->header_ = parse_safetensors_header(shard->file_->bytes(), file);
  shard->residency_ = residency;
  shard->places_.resize(shard->header_.tensors.size());
  return shard;
}

Shard::~Shard() {
  if (arena_ != nullptr) ::munmap(arena_, arena_bytes_);
}

// Address space for every tensor, memory for none: pages come as tensors are read.
void Shard::reserve_arena() {
  std::size_t end = 0;
  for (const TensorInfo& tensor : tensors()) {
    const std::size_t begin = round_up(end + kBorrowedPrefixBytes, kAlignment);
    arena_offsets_.push_back(begin);
    end = begin + tensor.bytes;
  }
  const std::size_t wanted = round_up(end, kHugePage);
  void* raw = ::mmap(nullptr, wanted + kHugePage, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (raw == MAP_FAILED) {
    const int error = errno;
    arena_offsets_.clear();
    throw ResourceError(fmt::format("{}: cannot reserve {} bytes for its tensors: {}",
                                    file_->path().string(), wanted,
                                    std::strerror(error)));
  }
  // Cut the ends off, so that the arena starts and stops on a huge page.
  auto* begin = static_cast<std::byte*>(raw);
  const auto address = reinterpret_cast<std::uintptr_t>(raw);
  const std::size_t head = round_up(address, kHugePage) - address;
  if (head > 0) ::munmap(begin, head);
  if (head < kHugePage) ::munmap(begin + head + wanted, kHugePage - head);
  arena_ = begin + head;
  arena_bytes_ = wanted;
#ifdef MADV_HUGEPAGE
  ::madvise(arena_, arena_bytes_, MADV_HUGEPAGE);
#endif
}

std::span<const std::byte> Shard::mapped_bytes(std::size_t index) const {
  const TensorInfo& tensor = tensors().at(index);
  return file_->bytes().subspan(tensor.offset, tensor.bytes);
}

TensorBytes Shard::bytes(std::size_t index) {
  const TensorInfo& tensor = tensors().at(index);
  const std::size_t alignment = std::max(1, info(tensor.dtype).bits / 8);
  if (residency_ == Residency::kMapped && tensor.offset % alignment == 0)
    return {mapped_bytes(index), file_, false};

  std::shared_ptr<Place> place;
  {
    const std::lock_guard lock(mutex_);
    if (arena_ == nullptr) reserve_arena();
    place = places_[index].lock();
    if (!place) {
      place = std::make_shared<Place>(shared_from_this(),
                                      arena_ + arena_offsets_[index], tensor.bytes);
      places_[index] = place;
    }
  }
  const bool just_read = place->read(tensor);
  return {place->bytes(), place, just_read};
}

}  // namespace optiq::checkpoint
