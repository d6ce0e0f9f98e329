// What the tests of this folder share: a directory of their own, and files to put
// there.
#pragma once
#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "optiq/base/error.h"
#include "optiq/checkpoint/safetensors.h"

namespace optiq::checkpoint {

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string name =
        (std::filesystem::temp_directory_path() / "optiq-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp");
    path_ = name;
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const {
    return path_ / name;
  }

 private:
  std::filesystem::path path_;
};

inline void write_text(const std::filesystem::path& file, std::string_view text) {
  std::ofstream(file, std::ios::binary)
      .write(text.data(), static_cast<std::streamsize>(text.size()));
}

inline std::string read_text(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

/// A safetensors file with this header, whatever it says.
inline std::string safetensors_bytes(const std::string& header,
                                     std::size_t data_bytes) {
  std::string bytes(8, '\0');
  for (int i = 0; i < 8; ++i) bytes[i] = static_cast<char>(header.size() >> (8 * i));
  bytes += header;
  for (std::size_t i = 0; i < data_bytes; ++i) bytes += static_cast<char>(i % 100);
  return bytes;
}

/// A good file with zeros, or `values` for the tensors that they name.
inline void write_tensors(const std::filesystem::path& file,
                          const std::vector<TensorEntry>& entries,
                          const std::map<std::string, std::string>& values = {},
                          const std::string& format = "pt") {
  SafetensorsWriter writer(file, entries, {{"format", format}});
  for (const TensorEntry& entry : entries) {
    std::size_t bytes = static_cast<std::size_t>(info(entry.dtype).bits) / 8;
    for (const std::int64_t dimension : entry.shape) bytes *= dimension;
    std::string data(bytes, '\0');
    if (const auto value = values.find(entry.name); value != values.end())
      data = value->second;
    writer.write(entry.name, std::as_bytes(std::span(data.data(), data.size())));
  }
  writer.finish();
}

/// The text of the exception of type E that `run` throws.
template <typename E, typename Run>
std::string message_of(Run run) {
  try {
    run();
  } catch (const E& error) {
    return error.what();
  } catch (const std::exception& error) {
    ADD_FAILURE() << "another exception: " << error.what();
    return "";
  }
  ADD_FAILURE() << "expected an exception";
  return "";
}

inline void expect_mentions(const std::string& message,
                            std::initializer_list<const char*> parts) {
  for (const char* part : parts)
    EXPECT_NE(message.find(part), std::string::npos)
        << "'" << part << "' is not in: " << message;
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
}

}  // namespace optiq::checkpoint
