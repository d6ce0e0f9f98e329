#include "optiq/checkpoint/safetensors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_set>

#include "optiq/base/error.h"
#include "optiq/checkpoint/quote.h"

namespace optiq::checkpoint {
namespace {

using nlohmann::json;

constexpr std::uint64_t kHeaderLimit = 100'000'000;
constexpr std::size_t kLengthBytes = 8;
constexpr std::size_t kMaxDimensions = 32;

// Reads the header event by event: a hostile header of 100 MB never becomes a tree, and
// a second value under one key, which a tree would hide, is seen.
class HeaderReader : public nlohmann::json_sax<json> {
 public:
  HeaderReader(const std::filesystem::path& file, std::uint64_t data_begin)
      : file_(file), data_begin_(data_begin) {}

  SafetensorsHeader header;

  bool null() override {
    // MLX writes no metadata as null.
    if (depth_ == 1 && name_ == "__metadata__") return true;
    return unexpected("null");
  }
  bool boolean(bool) override { return unexpected("a boolean"); }
  bool number_float(double, const std::string& text) override {
    return unexpected("the number " + text);
  }
  bool number_integer(std::int64_t value) override {
    return unexpected(fmt::format("the number {}", value));
  }
  bool number_unsigned(std::uint64_t value) override {
    if (!in_array_) return unexpected("a number");
    if (value > std::numeric_limits<std::int64_t>::max())
      return unexpected(fmt::format("the number {}", value));
    numbers_.push_back(value);
    if (numbers_.size() > kMaxDimensions)
      fail(fmt::format("expected at most {} numbers in {}", kMaxDimensions,
                       quote(field_)));
    return true;
  }
  bool binary(json::binary_t&) override { return unexpected("binary data"); }

  bool string(std::string& text) override {
    if (depth_ == 2 && in_metadata_) {
      if (!header.metadata.emplace(field_, text).second)
        fail("expected each metadata key once, found " + quote(field_) + " twice");
      return true;
    }
    if (depth_ != 2 || in_array_ || field_ != "dtype") return unexpected("a string");
    if (dtype_) fail("'dtype' is given twice");
    dtype_ = data_type_from_name(text);
    if (!dtype_) fail("unknown dtype " + quote(text));
    return true;
  }

  bool start_object(std::size_t) override {
    if (in_array_ || depth_ >= 2 || (depth_ == 1 && name_.empty()))
      return unexpected("an object");
    ++depth_;
    if (depth_ == 2) {
      in_metadata_ = name_ == "__metadata__";
      dtype_.reset();
      shape_.reset();
      offsets_.reset();
    }
    return true;
  }

  bool end_object() override {
    if (depth_ == 2 && !in_metadata_) add_tensor();
    --depth_;
    return true;
  }

  bool key(std::string& text) override {
    if (depth_ == 2) {
      field_ = text;
      if (!in_metadata_ && text != "dtype" && text != "shape" && text != "data_offsets")
        fail("expected dtype, shape and data_offsets, found " + quote(text));
      return true;
    }
    name_ = text;
    if (text.empty()) fail("expected a tensor name, found an empty one");
    if (!seen_.insert(text).second) fail("the name is there twice");
    return true;
  }

  bool start_array(std::size_t) override {
    if (in_array_ || depth_ != 2 || in_metadata_ || field_ == "dtype")
      return unexpected("an array");
    in_array_ = true;
    numbers_.clear();
    return true;
  }

  bool end_array() override {
    in_array_ = false;
    auto& target = field_ == "shape" ? shape_ : offsets_;
    if (target) fail(quote(field_) + " is given twice");
    target = numbers_;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    name_.clear();
    fail(fmt::format("the header is not JSON (at byte {})", kLengthBytes + position));
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw CheckpointError(
        name_.empty()
            ? fmt::format("{}: {}", file_.string(), what)
            : fmt::format("{}: tensor {}: {}", file_.string(), quote(name_), what));
  }

  bool unexpected(const std::string& what) const {
    if (depth_ == 0) fail("the header: expected an object, found " + what);
    if (depth_ == 1) fail("expected an object, found " + what);
    fail("in " + quote(field_) + ": did not expect " + what);
  }

  void add_tensor() {
    if (!dtype_ || !shape_ || !offsets_)
      fail("expected dtype, shape and data_offsets, one is missing");
    if (offsets_->size() != 2 || (*offsets_)[0] > (*offsets_)[1])
      fail(fmt::format("data_offsets: expected [begin, end], found [{}]",
                       fmt::join(*offsets_, ", ")));
    std::uint64_t bits = static_cast<std::uint64_t>(info(*dtype_).bits);
    bool is_empty = false;
    for (const std::uint64_t dimension : *shape_) is_empty |= dimension == 0;
    for (const std::uint64_t dimension : *shape_)
      if (!is_empty && __builtin_mul_overflow(bits, dimension, &bits))
        fail(fmt::format("shape [{}] is larger than memory", fmt::join(*shape_, ", ")));
    if (is_empty) bits = 0;
    const std::uint64_t bytes = (*offsets_)[1] - (*offsets_)[0];
    if (bits % 8 != 0 || bits / 8 != bytes)
      fail(fmt::format("{} [{}]: expected {} bytes, found {}", info(*dtype_).name,
                       fmt::join(*shape_, ", "), bits / 8, bytes));
    header.tensors.push_back({name_, *dtype_,
                              std::vector<std::int64_t>(shape_->begin(), shape_->end()),
                              file_, data_begin_ + (*offsets_)[0], bytes});
    if (header.tensors.back().offset < data_begin_) fail("data_offsets overflow");
  }

  const std::filesystem::path& file_;
  const std::uint64_t data_begin_;
  int depth_ = 0;
  bool in_metadata_ = false;
  bool in_array_ = false;
  std::string name_;   // the tensor being read
  std::string field_;  // and which of its fields
  std::unordered_set<std::string> seen_;
  std::vector<std::uint64_t> numbers_;
  std::optional<DataType> dtype_;
  std::optional<std::vector<std::uint64_t>> shape_, offsets_;
};

}  // namespace

SafetensorsHeader parse_safetensors_header(std::span<const std::byte> bytes,
                                           const std::filesystem::path& file) {
  const auto fail = [&](const std::string& what) {
    throw CheckpointError(fmt::format("{}: {}", file.string(), what));
  };
  if (bytes.size() < kLengthBytes)
    fail(fmt::format("expected a safetensors file, found {} bytes", bytes.size()));
  std::uint64_t length = 0;
  for (std::size_t i = 0; i < kLengthBytes; ++i)
    length |= std::to_integer<std::uint64_t>(bytes[i]) << (8 * i);
  if (length > kHeaderLimit)
    fail(fmt::format("expected a safetensors header of at most {} bytes, found {}",
                     kHeaderLimit, length));
  if (length > bytes.size() - kLengthBytes)
    fail(fmt::format("expected a header of {} bytes, the file ends after {}", length,
                     bytes.size() - kLengthBytes));

  const char* text = reinterpret_cast<const char*>(bytes.data()) + kLengthBytes;
  HeaderReader reader(file, kLengthBytes + length);
  json::sax_parse(text, text + length, &reader);

  auto& tensors = reader.header.tensors;
  std::ranges::sort(tensors, [](const TensorInfo& a, const TensorInfo& b) {
    return std::pair(a.offset, a.bytes) < std::pair(b.offset, b.bytes);
  });
  std::uint64_t end = kLengthBytes + length;
  for (const TensorInfo& tensor : tensors) {
    if (tensor.bytes > bytes.size() || tensor.offset > bytes.size() - tensor.bytes)
      fail(fmt::format("tensor {}: expected bytes {} to {}, the file has {}",
                       quote(tensor.name), tensor.offset, tensor.offset + tensor.bytes,
                       bytes.size()));
    if (tensor.offset != end)
      fail(fmt::format("tensor {}: {} at byte {}, expected byte {}", quote(tensor.name),
                       tensor.offset < end ? "overlaps another" : "follows a hole",
                       tensor.offset, end));
    end = tensor.offset + tensor.bytes;
  }
  if (end != bytes.size())
    fail(fmt::format("expected {} bytes, found {} after the last tensor", end,
                     bytes.size() - end));
  return std::move(reader.header);
}

std::string describe(DataType dtype, std::span<const std::int64_t> shape) {
  return fmt::format("{} [{}]", info(dtype).name, fmt::join(shape, ", "));
}

}  // namespace optiq::checkpoint
