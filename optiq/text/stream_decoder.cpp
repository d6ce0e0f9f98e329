#include "optiq/text/stream_decoder.h"

#include <fmt/format.h>

#include "optiq/text/rust_call.h"

namespace optiq::text {

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, const DecodeOptions& options)
    : stream_(optiq_stream_new(tokenizer.handle().get(), options.skip_special),
              optiq_stream_free),
      file_(tokenizer.file()) {}

std::string StreamDecoder::push(int id) {
  if (id < 0) {
    throw std::invalid_argument(
        fmt::format("[push] token id {} names no token; ids begin at 0", id));
  }
  OwnedBytes text;
  OwnedBytes error;
  check(optiq_stream_push(stream_.get(), static_cast<std::uint32_t>(id), text.out(),
                          error.out()),
        error, file_, "push");
  return text.text();
}

std::string StreamDecoder::finish() {
  OwnedBytes text;
  OwnedBytes error;
  check(optiq_stream_finish(stream_.get(), text.out(), error.out()), error, file_,
        "finish");
  return text.text();
}

}  // namespace optiq::text
