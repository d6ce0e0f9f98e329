#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>
#include <system_error>
#include <vector>

#include "optiq/base/error.h"
#include "optiq/base/file.h"

namespace optiq {
namespace fs = std::filesystem;
namespace {

// Swaps two directories in one step where the file system can; else leaves a moment in
// which the target is absent (never partial).
void replace_directory(const fs::path& from, const fs::path& target) {
#ifdef RENAME_EXCHANGE
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, target.c_str(), RENAME_EXCHANGE) ==
      0) {
    std::error_code ignored;
    fs::remove_all(from, ignored);  // now the old one
    return;
  }
#endif
  fs::path old = from;
  old += "-old";
  std::error_code error;
  fs::rename(target, old, error);
  if (!error) {
    fs::rename(from, target, error);
    std::error_code ignored;
    if (error)
      fs::rename(old, target, ignored);
    else
      fs::remove_all(old, ignored);
  }
  if (error)
    throw ResourceError(
        fmt::format("{}: cannot replace: {}", target.string(), error.message()));
}

int open_directory(const fs::path& directory) {
  return ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

void remove_abandoned(const fs::path& parent, const std::string& prefix) {
  std::error_code error;
  std::vector<fs::path> found;
  for (fs::directory_iterator i(parent, error), end; !error && i != end;
       i.increment(error))
    if (i->path().filename().string().starts_with(prefix)) found.push_back(i->path());
  for (const fs::path& directory : found) {
    const int lock = open_directory(directory);
    if (lock < 0) continue;
    if (::flock(lock, LOCK_EX | LOCK_NB) == 0) fs::remove_all(directory, error);
    ::close(lock);
  }
}

// True where the open directory still has a name.
bool is_linked(int fd) {
  struct stat status {};
  return ::fstat(fd, &status) == 0 && status.st_nlink > 0;
}

}  // namespace

AtomicDirectory::AtomicDirectory(fs::path target, std::string_view marker) {
  static std::atomic<unsigned> serial{0};
  std::error_code error;
  // Through symbolic links: what is replaced is the directory, not the link to it.
  target_ = fs::weakly_canonical(fs::absolute(target), error);
  if (error) target_ = fs::absolute(target).lexically_normal();
  if (!target_.has_filename()) target_ = target_.parent_path();
  if (!target_.has_filename())
    throw std::invalid_argument(
        fmt::format("{}: expected a directory that can be replaced", target.string()));
  if (fs::exists(target_, error)) {
    if (!fs::is_directory(target_, error))
      throw std::invalid_argument(
          fmt::format("{}: expected a directory, found a file", target.string()));
    const bool empty = fs::is_empty(target_, error) && !error;
    if (!empty && !fs::exists(target_ / marker, error))
      throw std::invalid_argument(fmt::format(
          "{}: expected a new directory, an empty one, or an earlier result with {}; "
          "found other files, which would be lost",
          target.string(), marker));
  }
  fs::create_directories(target_.parent_path(), error);
  const unsigned number = serial++;
  const std::string prefix = fmt::format(".{}.tmp-", target_.filename().string());
  if (!error) remove_abandoned(target_.parent_path(), prefix);
  temporary_ = target_.parent_path() /
               fmt::format("{}{}{}", prefix, ::getpid(),
                           number == 0 ? "" : fmt::format("-{}", number));
  for (;;) {  // until nobody takes it for abandoned before it is locked
    if (!error) fs::create_directory(temporary_, error);
    if (error)
      throw ResourceError(fmt::format("{}: cannot make a directory: {}",
                                      target_.string(), error.message()));
    lock_ = open_directory(temporary_);
    if (lock_ < 0 && errno == ENOENT) continue;
    if (lock_ < 0 || ::flock(lock_, LOCK_EX) != 0 || is_linked(lock_)) break;
    ::close(lock_);
  }
}

AtomicDirectory::~AtomicDirectory() {
  std::error_code ignored;
  if (!committed_) fs::remove_all(temporary_, ignored);
  if (lock_ >= 0) ::close(lock_);
}

void AtomicDirectory::commit() {
  OPTIQ_CHECK(!committed_, "a directory is committed once");
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(temporary_))
    if (!entry.is_symlink()) sync_to_disk(entry.path());
  sync_to_disk(temporary_);
  std::error_code error;
  if (fs::exists(target_, error)) {
    replace_directory(temporary_, target_);
  } else if (fs::rename(temporary_, target_, error); error) {
    throw ResourceError(
        fmt::format("{}: cannot create: {}", target_.string(), error.message()));
  }
  committed_ = true;
  sync_to_disk(target_.parent_path());
}

}  // namespace optiq
