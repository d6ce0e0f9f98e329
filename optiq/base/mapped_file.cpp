#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "optiq/base/error.h"
#include "optiq/base/file.h"

namespace optiq {

std::shared_ptr<const MappedFile> MappedFile::open(const std::filesystem::path& path) {
  const std::shared_ptr<MappedFile> file(new MappedFile);
  file->path_ = path;
  file->fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  struct stat status {};
  if (file->fd_ < 0 || ::fstat(file->fd_, &status) != 0)
    throw CheckpointError(
        fmt::format("{}: cannot open: {}", path.string(), std::strerror(errno)));
  if (!S_ISREG(status.st_mode))
    throw CheckpointError(fmt::format("{}: expected a regular file", path.string()));
  file->size_ = static_cast<std::size_t>(status.st_size);
  if (file->size_ == 0) return file;  // an empty range cannot be mapped
  void* data = ::mmap(nullptr, file->size_, PROT_READ, MAP_SHARED, file->fd_, 0);
  if (data == MAP_FAILED)
    throw ResourceError(fmt::format("{}: cannot map {} bytes: {}", path.string(),
                                    file->size_, std::strerror(errno)));
  file->data_ = static_cast<const std::byte*>(data);
  return file;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
  if (fd_ >= 0) ::close(fd_);
}

void MappedFile::read(std::uint64_t offset, std::span<std::byte> into) const {
  constexpr std::size_t kChunk = std::size_t{1} << 30;
  while (!into.empty()) {
    const ssize_t n = ::pread(fd_, into.data(), std::min(into.size(), kChunk),
                              static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0)
      throw CheckpointError(
          fmt::format("{}: cannot read: {}", path_.string(), std::strerror(errno)));
    if (n == 0)
      throw CheckpointError(
          fmt::format("{}: expected {} bytes, the file now ends at {}", path_.string(),
                      size_, offset));
    offset += static_cast<std::uint64_t>(n);
    into = into.subspan(static_cast<std::size_t>(n));
  }
}

void MappedFile::advise_sequential() const noexcept {
  if (data_ != nullptr)
    ::madvise(const_cast<std::byte*>(data_), size_, MADV_SEQUENTIAL);
}

void MappedFile::advise_dont_need(std::uint64_t offset,
                                  std::size_t size_bytes) const noexcept {
  const std::uint64_t page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  const std::uint64_t begin = (offset + page - 1) / page * page;
  const std::uint64_t end =
      std::min<std::uint64_t>(offset + size_bytes, size_) / page * page;
  if (data_ != nullptr && begin < end)
    ::madvise(const_cast<std::byte*>(data_) + begin, end - begin, MADV_DONTNEED);
}

}  // namespace optiq
