// The Hugging Face cache on disk, as Python's huggingface_hub lays it out.
#pragma once
#include <filesystem>
#include <functional>
#include <optional>
#include <string>

namespace optiq::checkpoint {

/// `<hub>/models--org--name`: blobs by ETag, refs from branches to commits, snapshots
/// of links to blobs.
class HubCache {
 public:
  /// Requires  is_hub_id(repository).
  HubCache(std::filesystem::path hub, const std::string& repository);

  const std::filesystem::path& root() const { return root_; }
  std::filesystem::path blob(const std::string& etag) const;
  std::filesystem::path incomplete(const std::string& etag) const;
  std::filesystem::path snapshot(const std::string& commit) const;

  /// The commit that a revision stood for when it was last fetched.
  std::optional<std::string> commit_of(const std::string& revision) const;

  /// The snapshot of a revision if config.json (an adapter's: adapter_config.json) and
  /// every shard are there.
  std::optional<std::filesystem::path> find(const std::string& revision) const;

  /// Makes the directories.
  ///
  /// Throws    ResourceError.
  void create() const;

  /// Puts the link `<snapshot>/<file>` to a blob; replaces an older one.
  void link(const std::string& commit, const std::string& file,
            const std::string& etag) const;
  void write_ref(const std::string& revision, const std::string& commit) const;

  std::filesystem::path lock_file(const std::string& etag) const;

 private:
  std::filesystem::path hub_;
  std::filesystem::path root_;
};

/// An exclusive lock between processes, the same one huggingface_hub takes.
class FileLock {
 public:
  /// Waits for the lock.
  ///
  /// Throws    Interrupted if cancelled while waiting; ResourceError.
  FileLock(const std::filesystem::path& file,
           const std::function<bool()>& is_cancelled);
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;
  ~FileLock();

 private:
  int fd_;
};

}  // namespace optiq::checkpoint
