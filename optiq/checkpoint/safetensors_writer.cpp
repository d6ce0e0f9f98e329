#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "optiq/base/error.h"
#include "optiq/base/file.h"
#include "optiq/checkpoint/quote.h"
#include "optiq/checkpoint/safetensors.h"

namespace optiq::checkpoint {
namespace {

std::uint64_t size_bytes(const TensorEntry& entry) {
  std::uint64_t bits = static_cast<std::uint64_t>(info(entry.dtype).bits);
  for (const std::int64_t dimension : entry.shape)
    if (dimension < 0 ||
        __builtin_mul_overflow(bits, static_cast<std::uint64_t>(dimension), &bits))
      throw std::invalid_argument(fmt::format("[SafetensorsWriter] tensor {}: {}",
                                              quote(entry.name),
                                              describe(entry.dtype, entry.shape)));
  if (bits % 8 != 0)
    throw std::invalid_argument(
        fmt::format("[SafetensorsWriter] tensor {}: {} is not whole bytes",
                    quote(entry.name), describe(entry.dtype, entry.shape)));
  return bits / 8;
}

struct Layout {
  std::string header;                                       // padded
  std::vector<std::pair<std::string, std::uint64_t>> ends;  // in the file's order
};

// Tensors by falling element size, so that each is aligned for its type.
Layout lay_out(std::span<const TensorEntry> entries,
               const std::map<std::string, std::string>& metadata) {
  std::vector<const TensorEntry*> order;
  for (const TensorEntry& entry : entries) order.push_back(&entry);
  std::ranges::stable_sort(order, [](const TensorEntry* a, const TensorEntry* b) {
    return info(a->dtype).bits > info(b->dtype).bits;
  });
  Layout layout;
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::uint64_t end = 0;
  for (const TensorEntry* entry : order) {
    const std::uint64_t begin = end;
    end += size_bytes(*entry);
    header[entry->name] = {{"dtype", info(entry->dtype).name},
                           {"shape", entry->shape},
                           {"data_offsets", {begin, end}}};
    layout.ends.emplace_back(entry->name, end);
  }
  layout.header = header.dump();
  constexpr std::size_t kAlignment = 64;
  layout.header.append(
      kAlignment - 1 - (8 + layout.header.size() + kAlignment - 1) % kAlignment, ' ');
  return layout;
}

}  // namespace

std::uint64_t safetensors_file_bytes(
    std::span<const TensorEntry> entries,
    const std::map<std::string, std::string>& metadata) {
  const Layout layout = lay_out(entries, metadata);
  return 8 + layout.header.size() +
         (layout.ends.empty() ? 0 : layout.ends.back().second);
}

SafetensorsWriter::SafetensorsWriter(std::filesystem::path file,
                                     std::span<const TensorEntry> entries,
                                     const std::map<std::string, std::string>& metadata)
    : file_(std::move(file)) {
  const Layout layout = lay_out(entries, metadata);
  const std::string& text = layout.header;
  const std::uint64_t length = text.size();
  std::uint64_t begin = 0;
  for (const auto& [name, end] : layout.ends) {
    const std::uint64_t bytes = end - begin;
    if (name.empty() || name == "__metadata__" ||
        !places_.emplace(name, Place{8 + length + begin, bytes, bytes == 0}).second)
      throw std::invalid_argument(fmt::format(
          "[SafetensorsWriter] expected unique tensor names, found {}", quote(name)));
    begin = end;
  }

  fd_ = ::open(file_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd_ < 0)
    throw ResourceError(
        fmt::format("{}: cannot write: {}", file_.string(), std::strerror(errno)));
  std::byte prefix[8];
  for (int i = 0; i < 8; ++i) prefix[i] = static_cast<std::byte>(length >> (8 * i));
  try {
    write_at(fd_, file_, 0, prefix);
    write_at(fd_, file_, 8, std::as_bytes(std::span(text)));
  } catch (...) {
    ::close(fd_);
    throw;
  }
}

SafetensorsWriter::~SafetensorsWriter() {
  if (fd_ >= 0) ::close(fd_);
}

void SafetensorsWriter::write(const std::string& name,
                              std::span<const std::byte> bytes) {
  const auto place = places_.find(name);
  if (place == places_.end())
    throw std::invalid_argument(
        fmt::format("[SafetensorsWriter] unknown tensor {}", quote(name)));
  if (bytes.size() != place->second.bytes)
    throw std::invalid_argument(
        fmt::format("[SafetensorsWriter] tensor {}: expected {} bytes, found {}",
                    quote(name), place->second.bytes, bytes.size()));
  if (place->second.written && !bytes.empty())
    throw std::invalid_argument(
        fmt::format("[SafetensorsWriter] tensor {} is written twice", quote(name)));
  write_at(fd_, file_, place->second.offset, bytes);
  place->second.written = true;
}

void SafetensorsWriter::finish() {
  for (const auto& [name, place] : places_)
    if (!place.written)
      throw std::invalid_argument(
          fmt::format("[SafetensorsWriter] tensor {} was not written", quote(name)));
  const bool flushed = ::fsync(fd_) == 0;
  const int error = errno;
  if (::close(std::exchange(fd_, -1)) != 0 || !flushed)
    throw ResourceError(fmt::format("{}: cannot write: {}", file_.string(),
                                    std::strerror(flushed ? errno : error)));
}

}  // namespace optiq::checkpoint
