#include "rows_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "optiq/base/error.h"
#include "optiq/base/file.h"

namespace optiq::app {
namespace {

[[noreturn]] void fail(const std::filesystem::path& path) {
  throw ResourceError(
      fmt::format("{}: cannot write: {}", path.string(), std::strerror(errno)));
}

}  // namespace

RowsFile::RowsFile(std::filesystem::path path, const std::string& tensor,
                   std::int64_t rows, std::int64_t columns)
    : path_(std::move(path)),
      temporary_(path_.parent_path() /
                 fmt::format(".{}.tmp-{}", path_.filename().string(), ::getpid())) {
  check_writable(path_);
  const std::uint64_t bytes =
      static_cast<std::uint64_t>(rows * columns) * sizeof(float);
  const nlohmann::json header = {
      {tensor,
       {{"dtype", "F32"}, {"shape", {rows, columns}}, {"data_offsets", {0, bytes}}}}};
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = text.size();
  std::string head(sizeof length, '\0');
  std::memcpy(head.data(), &length, sizeof length);
  head += text;

  fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd_ < 0) fail(path_);
  end_ = head.size() + bytes;
  try {
    write_at(fd_, path_, 0, std::as_bytes(std::span(head)));
  } catch (...) {  // no destructor runs
    ::close(fd_);
    ::unlink(temporary_.c_str());
    throw;
  }
  at_ = head.size();
}

RowsFile::~RowsFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_.c_str());
}

void RowsFile::write(std::span<const float> values) {
  OPTIQ_CHECK(at_ + values.size_bytes() <= end_, "more rows than were announced");
  write_at(fd_, path_, at_, std::as_bytes(values));
  at_ += values.size_bytes();
}

void RowsFile::commit() {
  OPTIQ_CHECK(at_ == end_, "fewer rows than were announced");
  if (::fsync(fd_) != 0 || ::rename(temporary_.c_str(), path_.c_str()) != 0)
    fail(path_);
  ::close(std::exchange(fd_, -1));
  sync_to_disk(path_.has_parent_path() ? path_.parent_path() : ".");
}

}  // namespace optiq::app
