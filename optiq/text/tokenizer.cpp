#include "optiq/text/tokenizer.h"

#include <fmt/format.h>

#include <array>
#include <cstdint>
#include <nlohmann/json.hpp>

#include "optiq/base/file.h"
#include "optiq/text/rust_call.h"

namespace optiq::text {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kVocabularyLimit = std::size_t{512} << 20;
constexpr std::size_t kConfigLimit = std::size_t{64} << 20;

constexpr std::array kSpecialNames = {"bos_token", "eos_token", "unk_token",
                                      "sep_token", "pad_token", "cls_token",
                                      "mask_token"};

std::string read_if_there(const std::filesystem::path& path) {
  return std::filesystem::exists(path) ? read_file(path, kConfigLimit) : "";
}

/// Adds the special tokens that `text`, the JSON of `path`, names: a name's value is
/// the token, or an object with its `content`.
void gather_special_tokens(const std::filesystem::path& path, const std::string& text,
                           std::map<std::string, std::string>& tokens) {
  if (text.empty()) return;
  const Json config = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) {
    throw CheckpointError(path.string() + ": expected a JSON object");
  }
  for (const char* name : kSpecialNames) {
    const auto found = config.find(name);
    if (found == config.end()) continue;
    const Json token = found->is_object() ? found->value("content", Json()) : *found;
    if (token.is_string()) tokens.emplace(name, token.get<std::string>());
  }
}

std::uint32_t checked_id(int id, std::string_view function) {
  if (id < 0) {
    throw std::invalid_argument(
        fmt::format("[{}] token id {} names no token; ids begin at 0", function, id));
  }
  return static_cast<std::uint32_t>(id);
}

std::vector<int> ids_of(const OwnedIds& ids) {
  return std::vector<int>(ids.values().begin(), ids.values().end());
}

}  // namespace

Tokenizer Tokenizer::load(const std::filesystem::path& dir) {
  const auto path = dir / "tokenizer.json";
  if (!std::filesystem::exists(path)) {
    throw CheckpointError(
        path.string() +
        ": there is no such file; a tokenizer in another form must be "
        "converted first (transformers' save_pretrained writes it)");
  }
  const std::string json = read_file(path, kVocabularyLimit);
  const auto config_path = dir / "tokenizer_config.json";
  const auto map_path = dir / "special_tokens_map.json";
  const std::string config = read_if_there(config_path);

  Tokenizer tokenizer;
  tokenizer.file_ = path.string();
  gather_special_tokens(config_path, config, tokenizer.special_tokens_);
  gather_special_tokens(map_path, read_if_there(map_path), tokenizer.special_tokens_);
  OwnedBytes error;
  optiq_tokenizer* handle = nullptr;
  check(optiq_tokenizer_new(view(json), view(config), &handle, error.out()), error,
        tokenizer.file_, "");
  tokenizer.handle_.reset(handle, optiq_tokenizer_free);
  return tokenizer;
}

std::vector<int> Tokenizer::encode(std::string_view text,
                                   const EncodeOptions& options) const {
  OwnedIds ids;
  OwnedBytes error;
  check(optiq_tokenizer_encode(handle_.get(), view(text), options.add_special_tokens,
                               options.parse_special, ids.out(), error.out()),
        error, file_, "encode");
  return ids_of(ids);
}

std::vector<int> Tokenizer::encode(const Prompt& prompt) const {
  OwnedIds ids;
  OwnedBytes error;
  check(
      optiq_tokenizer_encode_literal(
          handle_.get(), view(prompt.text),
          {prompt.literal_at.data(), prompt.literal_at.size()}, ids.out(), error.out()),
      error, file_, "encode");
  return ids_of(ids);
}

std::string Tokenizer::decode(std::span<const int> ids,
                              const DecodeOptions& options) const {
  std::vector<std::uint32_t> unsigned_ids;
  unsigned_ids.reserve(ids.size());
  for (const int id : ids) unsigned_ids.push_back(checked_id(id, "decode"));
  OwnedBytes text;
  OwnedBytes error;
  check(
      optiq_tokenizer_decode(handle_.get(), {unsigned_ids.data(), unsigned_ids.size()},
                             options.skip_special, text.out(), error.out()),
      error, file_, "decode");
  return text.text();
}

std::string Tokenizer::token_bytes(int id) const {
  OwnedBytes bytes;
  OwnedBytes error;
  check(optiq_tokenizer_token_bytes(handle_.get(), checked_id(id, "token_bytes"),
                                    bytes.out(), error.out()),
        error, file_, "token_bytes");
  return bytes.text();
}

std::optional<int> Tokenizer::token_id(std::string_view token) const {
  const std::int64_t id = optiq_tokenizer_id(handle_.get(), view(token));
  if (id < 0) return std::nullopt;
  return static_cast<int>(id);
}

bool Tokenizer::is_special(int id) const {
  return id >= 0 &&
         optiq_tokenizer_is_special(handle_.get(), static_cast<std::uint32_t>(id));
}

int Tokenizer::vocab_size() const {
  return static_cast<int>(optiq_tokenizer_vocab_size(handle_.get()));
}

}  // namespace optiq::text
