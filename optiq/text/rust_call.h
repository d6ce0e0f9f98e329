// Calls into the Rust library: views of C++ data, owned results, statuses as
// exceptions.
#pragma once
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

#include "optiq/base/error.h"
#include "optiq/text/rust/optiq_text.h"

namespace optiq::text {

inline optiq_bytes_view view(std::string_view text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

inline void free_buffer(optiq_bytes buffer) { optiq_free_bytes(buffer); }
inline void free_buffer(optiq_ids buffer) { optiq_free_ids(buffer); }
inline void free_buffer(optiq_offsets buffer) { optiq_free_offsets(buffer); }

/// A buffer of the library's, given back when this goes.
template <typename Buffer>
class Owned {
 public:
  Owned() = default;
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  ~Owned() { free_buffer(buffer_); }

  Buffer* out() { return &buffer_; }
  auto values() const { return std::span(buffer_.data, buffer_.size); }
  std::string text() const {
    return std::string(reinterpret_cast<const char*>(buffer_.data), buffer_.size);
  }

 private:
  Buffer buffer_ = {nullptr, 0};
};

using OwnedBytes = Owned<optiq_bytes>;
using OwnedIds = Owned<optiq_ids>;
using OwnedOffsets = Owned<optiq_offsets>;

/// Throws what a failed status means. `file` names what was loaded; `function`, if not
/// empty, goes before the message of a wrong argument.
inline void check(optiq_text_status status, const OwnedBytes& error,
                  std::string_view file, std::string_view function) {
  const std::string message = status == OPTIQ_TEXT_OK ? "" : error.text();
  switch (status) {
    case OPTIQ_TEXT_OK:
      return;
    case OPTIQ_TEXT_ARGUMENT:
      throw std::invalid_argument(
          function.empty() ? message : "[" + std::string(function) + "] " + message);
    case OPTIQ_TEXT_FILE:
      throw CheckpointError(std::string(file) + ": " + message);
    case OPTIQ_TEXT_BUG:
      break;
  }
  throw std::logic_error(std::string(file) + ": internal error: " + message);
}

}  // namespace optiq::text
