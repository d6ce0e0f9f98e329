#include "optiq/base/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include "optiq/base/error.h"

namespace optiq {
namespace fs = std::filesystem;
namespace {

[[noreturn]] void write_failed(const fs::path& path, int error) {
  throw ResourceError(fmt::format("{}: cannot write: {}{}", path.string(),
                                  std::strerror(error),
                                  error == ENOSPC ? " (free some disk space)" : ""));
}

class OpenFile {
 public:
  explicit OpenFile(int fd) : fd_(fd) {}
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;
  ~OpenFile() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

}  // namespace

std::string read_file(const fs::path& path, std::size_t limit_bytes) {
  // O_NONBLOCK: opening a named pipe must not wait for its writer.
  OpenFile file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat status {};
  if (file.get() < 0 || ::fstat(file.get(), &status) != 0)
    throw CheckpointError(
        fmt::format("{}: cannot open: {}", path.string(), std::strerror(errno)));
  if (!S_ISREG(status.st_mode))
    throw CheckpointError(fmt::format("{}: expected a regular file", path.string()));
  std::string bytes;
  char buffer[1 << 16];
  while (true) {
    const ssize_t n = ::read(file.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0)
      throw CheckpointError(
          fmt::format("{}: cannot read: {}", path.string(), std::strerror(errno)));
    if (n == 0) return bytes;
    if (bytes.size() + static_cast<std::size_t>(n) > limit_bytes)
      throw CheckpointError(fmt::format(
          "{}: expected at most {} bytes, found {}", path.string(), limit_bytes,
          std::max<std::uint64_t>(status.st_size, limit_bytes + 1)));
    bytes.append(buffer, static_cast<std::size_t>(n));
  }
}

void write_at(int fd, const fs::path& path, std::uint64_t offset,
              std::span<const std::byte> bytes) {
  // Linux writes at most 2 GiB - 4 KiB a call.
  constexpr std::size_t kChunk = std::size_t{1} << 30;
  while (!bytes.empty()) {
    const ssize_t n = ::pwrite(fd, bytes.data(), std::min(bytes.size(), kChunk),
                               static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) write_failed(path, errno);
    offset += static_cast<std::uint64_t>(n);
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
}

void sync_to_disk(const fs::path& path) {
  OpenFile file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  // EINVAL: file systems that cannot flush a directory.
  if (file.get() < 0 || (::fsync(file.get()) != 0 && errno != EINVAL))
    write_failed(path, errno);
}

void check_writable(const fs::path& path) {
  if (path.empty()) write_failed("''", ENOENT);
  const fs::path directory = path.has_parent_path() ? path.parent_path() : ".";
  struct stat status {};
  if (::stat(directory.c_str(), &status) != 0) write_failed(path, errno);
  if (!S_ISDIR(status.st_mode)) write_failed(path, ENOTDIR);
  if (::access(directory.c_str(), W_OK | X_OK) != 0) write_failed(path, errno);
  if (::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode))
    write_failed(path, EISDIR);
}

void write_file_atomic(const fs::path& path, std::string_view bytes) {
  static std::atomic<unsigned> serial{0};
  const fs::path directory = path.has_parent_path() ? path.parent_path() : ".";
  const fs::path temporary =
      directory /
      fmt::format(".{}.tmp-{}-{}", path.filename().string(), ::getpid(), serial++);
  OpenFile file(
      ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (file.get() < 0) write_failed(path, errno);
  try {
    write_at(file.get(), path, 0, std::as_bytes(std::span(bytes.data(), bytes.size())));
    if (::fsync(file.get()) != 0 || ::close(file.release()) != 0 ||
        ::rename(temporary.c_str(), path.c_str()) != 0)
      write_failed(path, errno);
    sync_to_disk(directory);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
}

}  // namespace optiq
