// A safetensors file of one float32 matrix, written row by row; whole or not at all.
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

namespace optiq::app {

class RowsFile {
 public:
  /// A temporary file beside `path`, which commit() puts in its place.
  ///
  /// Throws    ResourceError.
  RowsFile(std::filesystem::path path, const std::string& tensor, std::int64_t rows,
           std::int64_t columns);
  RowsFile(const RowsFile&) = delete;
  RowsFile& operator=(const RowsFile&) = delete;

  /// Removes the temporary file if nothing was committed.
  ~RowsFile();

  /// Appends whole rows.
  void write(std::span<const float> values);

  /// Requires  all rows were written.
  void commit();

 private:
  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int fd_ = -1;
  std::uint64_t at_ = 0;
  std::uint64_t end_ = 0;
};

}  // namespace optiq::app
