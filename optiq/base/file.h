// Files: read with a limit, map without a copy, write so that a half never shows.
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace optiq {

/// Reads a whole small file.
///
/// Throws    CheckpointError if it is missing, not a regular file, unreadable, or
///           larger than `limit_bytes`; the message names the file.
std::string read_file(const std::filesystem::path& path, std::size_t limit_bytes);

/// Writes a file through a temporary one beside it, fsynced and renamed, so that
/// readers see the old bytes or the new ones and never a part.
///
/// Throws    ResourceError (disk full, permission, no such directory).
void write_file_atomic(const std::filesystem::path& path, std::string_view bytes);

/// Finds out before the work that its result cannot be written.
///
/// Throws    ResourceError if `path` is a directory, or its own is not there or cannot
///           be written.
void check_writable(const std::filesystem::path& path);

/// Writes all of `bytes` at `offset` of an open file.
///
/// Throws    ResourceError naming `path`.
void write_at(int fd, const std::filesystem::path& path, std::uint64_t offset,
              std::span<const std::byte> bytes);

/// Flushes a file or a directory to the disk.
///
/// Throws    ResourceError naming `path`.
void sync_to_disk(const std::filesystem::path& path);

/// A file mapped read-only, unmapped with the last owner. Another process that cuts the
/// file while it is mapped kills this one (SIGBUS), as with every map; files are
/// therefore replaced by rename and never rewritten in place.
class MappedFile {
 public:
  /// Throws  CheckpointError if the file is missing, unreadable or not a regular file;
  ///         ResourceError if there is no address space.
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path);

  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  const std::filesystem::path& path() const { return path_; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }

  /// Copies bytes by read(), which leaves the map's pages untouched.
  ///
  /// Requires  offset + into.size() <= size of the file.
  /// Throws    CheckpointError if the file has become shorter.
  void read(std::uint64_t offset, std::span<std::byte> into) const;

  /// Says that the map will be walked from front to back once.
  void advise_sequential() const noexcept;

  /// Gives the pages wholly inside [offset, offset + size_bytes) back to the system.
  void advise_dont_need(std::uint64_t offset, std::size_t size_bytes) const noexcept;

 private:
  MappedFile() = default;

  std::filesystem::path path_;
  int fd_ = -1;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// A directory that appears whole or not at all. Files are written to `path()`, which
/// is `.<name>.tmp-<pid>` beside the target; `commit()` flushes them and puts the
/// directory in the target's place; without it the destructor removes everything.
class AtomicDirectory {
 public:
  /// Makes parents as needed, and removes what killed processes have left beside the
  /// target: temporary directories of its name that no process holds a lock on.
  ///
  /// Requires  an existing target to be a directory that is empty or holds a file
  ///           called `marker`: only an earlier result of the same kind is replaced,
  ///           never somebody's home.
  /// Throws    std::invalid_argument if it is not; ResourceError if the temporary
  ///           directory cannot be made.
  AtomicDirectory(std::filesystem::path target, std::string_view marker);
  AtomicDirectory(const AtomicDirectory&) = delete;
  AtomicDirectory& operator=(const AtomicDirectory&) = delete;
  ~AtomicDirectory();

  const std::filesystem::path& path() const { return temporary_; }
  const std::filesystem::path& target() const { return target_; }

  /// Flushes every file, swaps the directory in and removes the old one.
  ///
  /// Throws    ResourceError; the old target is then still there.
  void commit();

 private:
  std::filesystem::path target_;
  std::filesystem::path temporary_;
  int lock_ = -1;  // of the temporary directory
  bool committed_ = false;
};

}  // namespace optiq
