// Text to token ids and back, as tokenizer.json defines it.
#pragma once
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "optiq/text/prompt.h"

struct optiq_tokenizer;

namespace optiq::text {

struct EncodeOptions {
  /// Adds what the tokenizer puts around a text, such as a first <s>.
  bool add_special_tokens = false;
  /// Recognises special tokens that the text spells. Only for text of our own: with
  /// it, whoever writes the text writes special tokens.
  bool parse_special = false;
};

struct DecodeOptions {
  bool skip_special = false;
};

/// Threads   const members may be called from any thread at once; none of them starts
///           threads.
class Tokenizer {
 public:
  /// Reads `dir`/tokenizer.json and, if they are there, tokenizer_config.json and
  /// special_tokens_map.json.
  ///
  /// Throws    CheckpointError naming the file.
  /// Cost      20 ms of CPU for 8k tokens.
  static Tokenizer load(const std::filesystem::path& dir);

  /// Throws    std::invalid_argument if the text is not UTF-8.
  /// Cost      linear, about 0.5 s per MB.
  std::vector<int> encode(std::string_view text,
                          const EncodeOptions& options = {}) const;

  /// Encodes a rendered chat: the template's special tokens are special, those that
  /// messages spell are text. Where they spell none, the ids are those of `encode` of
  /// the whole text with `parse_special`.
  std::vector<int> encode(const Prompt& prompt) const;

  /// Throws    std::invalid_argument for an id that names no token.
  std::string decode(std::span<const int> ids, const DecodeOptions& options = {}) const;

  /// The bytes that a token adds to a text that others began; a token may be a part of
  /// a character.
  ///
  /// Throws    std::invalid_argument for an id that names no token.
  std::string token_bytes(int id) const;

  /// The id of a token by its text in the vocabulary.
  std::optional<int> token_id(std::string_view token) const;

  bool is_special(int id) const;

  /// One more than the largest id. A model may have more logits than this; ids there
  /// name no token.
  int vocab_size() const;

  /// The texts of "bos_token", "eos_token", "pad_token" and so on, of those that
  /// tokenizer_config.json or special_tokens_map.json names.
  const std::map<std::string, std::string>& special_tokens() const {
    return special_tokens_;
  }

  /// For the other wrappers of the Rust library.
  const std::shared_ptr<optiq_tokenizer>& handle() const { return handle_; }
  const std::string& file() const { return file_; }

 private:
  Tokenizer() = default;

  std::shared_ptr<optiq_tokenizer> handle_;
  std::string file_;
  std::map<std::string, std::string> special_tokens_;
};

}  // namespace optiq::text
