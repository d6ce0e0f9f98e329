// Token ids to text as they come, never a part of a character.
#pragma once
#include <memory>
#include <string>

#include "optiq/text/tokenizer.h"

struct optiq_stream;

namespace optiq::text {

/// What `push` and `finish` return, put together, is exactly what `Tokenizer::decode`
/// gives for all the ids. Text is held back while a later token may change it: bytes
/// that may still become a character, and with byte fallback a whole run of byte
/// tokens. Decoders of other kinds than ByteLevel, byte fallback and Metaspace give
/// their text at `finish`.
///
/// Threads   one at a time.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, const DecodeOptions& options = {});

  /// The text that this id settles; often empty.
  ///
  /// Throws    std::invalid_argument for an id that names no token; the stream is then
  ///           as before.
  std::string push(int id);

  /// The text held back, its unfinished characters as U+FFFD; the decoder then begins
  /// anew.
  std::string finish();

 private:
  std::unique_ptr<optiq_stream, void (*)(optiq_stream*)> stream_;
  std::string file_;
};

}  // namespace optiq::text
