#include "optiq/checkpoint/hub/hub_names.h"

#include <fmt/format.h>

#include <algorithm>

namespace optiq::checkpoint {
namespace {

bool is_alphanumeric(char c) {
  return ('a' <= c && c <= 'z') || ('A' <= c && c <= 'Z') || ('0' <= c && c <= '9');
}

bool is_word(std::string_view text) {
  return !text.empty() && text.size() <= 96 && std::ranges::all_of(text, [](char c) {
    return is_alphanumeric(c) || c == '.' || c == '_' || c == '-';
  });
}

bool is_hex(std::string_view text) {
  return std::ranges::all_of(text, [](char c) {
    return ('0' <= c && c <= '9') || ('a' <= c && c <= 'f') || ('A' <= c && c <= 'F');
  });
}

// Components between slashes, none of them empty, "." or "..".
bool is_relative_path(std::string_view text) {
  if (text.empty() || text.size() > 1024) return false;
  while (true) {
    const std::size_t slash = text.find('/');
    const std::string_view part = text.substr(0, slash);
    if (part.empty() || part.size() > 255 || part == "." || part == "..") return false;
    if (slash == std::string_view::npos) return true;
    text.remove_prefix(slash + 1);
  }
}

bool is_wanted(std::string_view file) {
  if (file.starts_with("optiq/")) file.remove_prefix(6);
  if (file.find('/') != std::string_view::npos || file.starts_with('.')) return false;
  for (const char* ending : {".safetensors", ".json", ".jinja"})
    if (file.ends_with(ending)) return true;
  for (const char* name : {"tokenizer.model", "merges.txt", "vocab.txt", "README.md"})
    if (file == name) return true;
  return file.starts_with("LICENSE");
}

}  // namespace

bool is_hub_id(std::string_view text) {
  const std::size_t slash = text.find('/');
  if (slash == std::string_view::npos) return false;
  for (const std::string_view part : {text.substr(0, slash), text.substr(slash + 1)})
    if (!is_word(part) || !is_alphanumeric(part.back()) || part.front() == '.' ||
        part.front() == '-' || part.find("..") != std::string_view::npos ||
        part.find("--") != std::string_view::npos)
      return false;
  return true;
}

bool is_revision(std::string_view text) {
  return is_relative_path(text) && std::ranges::all_of(text, [](char c) {
           return is_alphanumeric(c) || c == '.' || c == '_' || c == '-' || c == '/';
         });
}

bool is_commit(std::string_view text) { return text.size() == 40 && is_hex(text); }

bool is_repository_file(std::string_view text) {
  return is_relative_path(text) && std::ranges::all_of(text, [](char c) {
           return static_cast<unsigned char>(c) >= 0x20 && c != 0x7F && c != '\\';
         });
}

bool is_blob_name(std::string_view text) {
  return is_word(text) && text.find("..") == std::string_view::npos &&
         text.front() != '.' && !text.ends_with(".incomplete");
}

std::vector<std::string> wanted_files(const std::vector<std::string>& files) {
  const auto is_weights = [](std::string_view file, std::string_view start) {
    return file.starts_with(start) && file.ends_with(".safetensors");
  };
  const bool has_model = std::ranges::any_of(
      files, [&](const std::string& file) { return is_weights(file, "model"); });
  std::vector<std::string> wanted;
  // What says that a snapshot is whole comes last: of a model, or of an adapter.
  std::vector<std::string> configs;
  for (const std::string& file : files) {
    // A second copy of the weights in its maker's own layout.
    if (has_model && is_weights(file, "consolidated")) continue;
    if (file == "config.json" || file == "adapter_config.json")
      configs.push_back(file);
    else if (is_wanted(file))
      wanted.push_back(file);
  }
  std::ranges::sort(wanted);
  wanted.erase(std::unique(wanted.begin(), wanted.end()), wanted.end());
  wanted.insert(wanted.end(), configs.begin(), configs.end());
  return wanted;
}

std::string url_encode(std::string_view text, Slash slash) {
  std::string encoded;
  for (const char c : text) {
    if (is_alphanumeric(c) || c == '-' || c == '.' || c == '_' || c == '~' ||
        (c == '/' && slash == Slash::kKeep))
      encoded += c;
    else
      encoded += fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return encoded;
}

}  // namespace optiq::checkpoint
