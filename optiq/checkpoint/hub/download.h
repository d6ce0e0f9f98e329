// One model's download: list the files, fetch the blobs that are missing, link them.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "optiq/checkpoint/hub.h"
#include "optiq/checkpoint/hub/http.h"
#include "optiq/checkpoint/hub/hub_cache.h"

namespace optiq::checkpoint {

class Download {
 public:
  /// The arguments must outlive it.
  Download(const std::string& repository, const std::string& revision,
           const HubCache& cache, const HubOptions& options);

  /// Throws as pull(); returns the snapshot.
  std::filesystem::path run();

 private:
  struct File {
    std::string name;
    std::string etag;    // the blob's name
    std::string sha256;  // empty if the server does not say
    std::uint64_t bytes = 0;
    bool has_bytes = false;
  };

  void list();                      // fills commit_ and files_
  void ask_for(File& file);         // etag and size from the file's own headers
  void fetch(const File& file);     // into the cache
  void transfer(const File& file);  // into the incomplete blob, with retries
  std::string hash(const std::filesystem::path& path) const;
  void check_space() const;
  void check_status(const HttpResponse& response, const std::string& what) const;
  HttpResponse perform(const HttpRequest& request);
  std::string file_url(const std::string& file) const;
  void report(const std::string& file, std::uint64_t file_bytes) const;
  bool wait_before_retry(int attempt) const;

  const std::string& repository_;
  const std::string& revision_;
  const HubCache& cache_;
  const HubOptions& options_;
  Http http_;
  std::string commit_;
  std::vector<File> files_;
  std::uint64_t done_bytes_ = 0;
  std::uint64_t total_bytes_ = 0;
};

}  // namespace optiq::checkpoint
