// What a hub may call things: ids, revisions, files and blobs, all from strangers.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace optiq::checkpoint {

/// "org/name" of letters, digits, '.', '_' and '-', never "..", "--" or a path.
bool is_hub_id(std::string_view text);

/// A branch, tag, "refs/pr/1" or commit.
bool is_revision(std::string_view text);

/// A commit: 40 hexadecimal digits.
bool is_commit(std::string_view text);

/// A file inside a repository: relative, no "..", no control characters.
bool is_repository_file(std::string_view text);

/// An ETag that may serve as a file name in the cache.
bool is_blob_name(std::string_view text);

/// Of a repository's files the ones that a model needs: safetensors, JSON, chat
/// templates, tokenizer files, README and LICENSE, at the root and in `optiq/`;
/// config.json (an adapter's: adapter_config.json) last, so that its presence means
/// that all are there.
std::vector<std::string> wanted_files(const std::vector<std::string>& files);

/// Percent-encodes all but letters, digits, '-', '.', '_' and '~'; '/' if asked for.
enum class Slash { kKeep, kEncode };
std::string url_encode(std::string_view text, Slash slash);

}  // namespace optiq::checkpoint
