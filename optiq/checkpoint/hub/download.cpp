#include "optiq/checkpoint/hub/download.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <system_error>
#include <thread>

#include "optiq/base/error.h"
#include "optiq/base/file.h"
#include "optiq/checkpoint/hub/hub_names.h"
#include "optiq/checkpoint/hub/sha256.h"
#include "optiq/checkpoint/json_file.h"
#include "optiq/checkpoint/quote.h"

namespace optiq::checkpoint {
namespace fs = std::filesystem;
namespace {

constexpr std::size_t kListingLimit = std::size_t{64} << 20;
constexpr std::size_t kSha256Digits = 64;

// W/"abc" -> abc
std::string blob_name(std::string etag) {
  if (etag.starts_with("W/")) etag.erase(0, 2);
  if (etag.size() >= 2 && etag.front() == '"' && etag.back() == '"')
    etag = etag.substr(1, etag.size() - 2);
  return etag;
}

std::string lower_sha256(const std::string& text) {
  std::string hex = text;
  for (char& c : hex)
    if ('A' <= c && c <= 'F') c = static_cast<char>(c - 'A' + 'a');
  const bool is_hex = std::ranges::all_of(
      hex, [](char c) { return ('0' <= c && c <= '9') || ('a' <= c && c <= 'f'); });
  return hex.size() == kSha256Digits && is_hex ? hex : "";
}

std::optional<std::uint64_t> parse_size(const std::string& text) {
  std::uint64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  if (text.empty() || error != std::errc() || rest != end) return std::nullopt;
  return value;
}

class Descriptor {
 public:
  explicit Descriptor(const fs::path& path)
      : fd_(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666)) {
    if (fd_ < 0)
      throw ResourceError(
          fmt::format("{}: cannot write: {}", path.string(), std::strerror(errno)));
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() { ::close(fd_); }
  int get() const { return fd_; }

 private:
  int fd_;
};

}  // namespace

Download::Download(const std::string& repository, const std::string& revision,
                   const HubCache& cache, const HubOptions& options)
    : repository_(repository), revision_(revision), cache_(cache), options_(options) {}

fs::path Download::run() {
  list();
  for (File& file : files_) {
    if (file.etag.empty()) ask_for(file);
    if (file.has_bytes) total_bytes_ += file.bytes;
  }
  cache_.create();
  check_space();
  for (const File& file : files_) {
    fetch(file);
    cache_.link(commit_, file.name, file.etag);
    done_bytes_ += file.bytes;
    report(file.name, 0);
  }
  cache_.write_ref(revision_, commit_);
  return cache_.snapshot(commit_);
}

void Download::list() {
  std::string body;
  HttpRequest request;
  request.url =
      fmt::format("{}/api/models/{}/revision/{}?blobs=true", options_.endpoint,
                  repository_, url_encode(revision_, Slash::kEncode));
  request.on_body = [&](std::uint64_t begin, std::span<const std::byte> bytes) {
    if (begin == 0) body.clear();
    if (body.size() + bytes.size() > kListingLimit)
      throw CheckpointError(fmt::format("{}: expected at most {} bytes of listing",
                                        request.url, kListingLimit));
    body.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  };
  check_status(perform(request), "");

  const nlohmann::json json = parse_json_object(body, request.url);
  const auto fail = [&](const std::string& what) {
    throw CheckpointError(fmt::format("{}: {}", request.url, what));
  };
  const auto sha = json.find("sha");
  if (sha == json.end() || !sha->is_string() || !is_commit(sha->get<std::string>()))
    fail("expected a commit in 'sha'");
  commit_ = sha->get<std::string>();
  const auto siblings = json.find("siblings");
  if (siblings == json.end() || !siblings->is_array())
    fail("expected a list 'siblings'");
  std::map<std::string, File> listed;
  std::vector<std::string> names;
  for (const nlohmann::json& sibling : *siblings) {
    if (!sibling.is_object() || !sibling.contains("rfilename") ||
        !sibling["rfilename"].is_string())
      fail("expected a 'rfilename' in each of 'siblings'");
    File file;
    file.name = sibling["rfilename"].get<std::string>();
    if (!is_repository_file(file.name))
      fail(fmt::format("the file name {} is refused", quote(file.name)));
    const auto text = [](const nlohmann::json& object, const char* key) {
      const auto found = object.find(key);
      return found != object.end() && found->is_string() ? found->get<std::string>()
                                                         : "";
    };
    if (const auto size = sibling.find("size");
        size != sibling.end() && size->is_number_unsigned()) {
      file.bytes = size->get<std::uint64_t>();
      file.has_bytes = true;
      if (const auto lfs = sibling.find("lfs");
          lfs != sibling.end() && lfs->is_object())
        file.sha256 = lower_sha256(text(*lfs, "sha256"));
      file.etag = file.sha256.empty() ? text(sibling, "blobId") : file.sha256;
      if (!is_blob_name(file.etag)) file.etag.clear();
    }
    names.push_back(file.name);
    listed[file.name] = std::move(file);
  }
  for (const std::string& name : wanted_files(names)) files_.push_back(listed[name]);
  if (files_.empty())
    throw CheckpointError(fmt::format(
        "hub model {}: expected a model's files, found none of {} files wanted",
        quote(repository_), names.size()));
}

void Download::ask_for(File& file) {
  HttpRequest request;
  request.url = file_url(file.name);
  request.head = true;
  // The hub's own answer has the blob's name; the store that it points to has not.
  request.follow_other_hosts = false;
  const HttpResponse response = perform(request);
  if (response.status < 300 || response.status >= 400)
    check_status(response, file.name);
  const bool is_linked = !response.header("x-linked-etag").empty();
  file.etag = blob_name(response.header(is_linked ? "x-linked-etag" : "etag"));
  if (!is_blob_name(file.etag))
    throw CheckpointError(
        fmt::format("{}: expected an ETag, found {}", request.url, quote(file.etag)));
  file.sha256 = lower_sha256(file.etag);
  const bool is_redirect = response.status >= 300;
  std::string size = response.header("x-linked-size");
  if (size.empty() && !is_redirect) size = response.header("content-length");
  if (const auto bytes = parse_size(size)) {
    file.bytes = *bytes;
    file.has_bytes = true;
  }
}

void Download::check_space() const {
  std::uint64_t missing = 0;
  std::error_code error;
  for (const File& file : files_) {
    if (fs::exists(cache_.blob(file.etag), error) || !file.has_bytes) continue;
    const auto there = fs::file_size(cache_.incomplete(file.etag), error);
    missing += file.bytes - std::min<std::uint64_t>(file.bytes, error ? 0 : there);
  }
  const fs::space_info space = fs::space(cache_.root(), error);
  if (!error && missing > space.available)
    throw ResourceError(fmt::format("{}: expected {} free bytes for {}, found {}",
                                    cache_.root().string(), missing, quote(repository_),
                                    space.available));
}

void Download::fetch(const File& file) {
  const fs::path blob = cache_.blob(file.etag);
  std::error_code error;
  const auto is_there = [&] {
    return fs::exists(blob, error) &&
           (!file.has_bytes || fs::file_size(blob, error) == file.bytes);
  };
  if (is_there()) return;
  const FileLock lock(cache_.lock_file(file.etag), options_.is_cancelled);
  if (is_there()) return;  // another process was faster
  const fs::path incomplete = cache_.incomplete(file.etag);
  const bool is_resumed = fs::exists(incomplete, error);
  transfer(file);
  if (!file.sha256.empty() && hash(incomplete) != file.sha256) {
    fs::remove(incomplete, error);
    // The part that was already here may have been another's: once more from nothing.
    if (is_resumed) transfer(file);
    if (!is_resumed || hash(incomplete) != file.sha256) {
      fs::remove(incomplete, error);
      throw CheckpointError(fmt::format("{}: expected SHA-256 {}, found another",
                                        file_url(file.name), file.sha256));
    }
  }
  sync_to_disk(incomplete);
  fs::rename(incomplete, blob, error);
  if (error)
    throw ResourceError(
        fmt::format("{}: cannot create: {}", blob.string(), error.message()));
}

void Download::transfer(const File& file) {
  const fs::path path = cache_.incomplete(file.etag);
  const Descriptor output(path);
  std::uint64_t have = static_cast<std::uint64_t>(::lseek(output.get(), 0, SEEK_END));
  const auto truncate = [&](std::uint64_t size) {
    if (::ftruncate(output.get(), static_cast<off_t>(size)) != 0)
      throw ResourceError(
          fmt::format("{}: cannot write: {}", path.string(), std::strerror(errno)));
    have = size;
  };
  if (file.has_bytes && have > file.bytes) truncate(0);
  int attempt = 0;
  while (!file.has_bytes || have < file.bytes || have == 0) {
    const std::uint64_t before = have;
    HttpRequest request;
    request.url = file_url(file.name);
    request.range_begin = have;
    request.on_body = [&](std::uint64_t begin, std::span<const std::byte> bytes) {
      if (begin != have) {
        // A server that does not know ranges starts over.
        if (begin != 0)
          throw HttpBroken(request.url + ": another range than asked for");
        truncate(0);
      }
      if (file.has_bytes && bytes.size() > file.bytes - have)
        throw CheckpointError(
            fmt::format("{}: expected {} bytes, found more", request.url, file.bytes));
      write_at(output.get(), path, have, bytes);
      have += bytes.size();
      report(file.name, have);
    };
    request.token = options_.token;
    request.is_cancelled = options_.is_cancelled;
    std::string problem;
    try {
      const HttpResponse response = http_.perform(request);
      if (response.status == 416 && !file.has_bytes && have > 0) return;
      if (response.status == 416) {
        truncate(0);
        problem = "the server refuses to continue";
      } else if (response.status == 429 || response.status >= 500) {
        problem = fmt::format("HTTP status {}", response.status);
      } else {
        check_status(response, file.name);
        if (!file.has_bytes || have == file.bytes) return;
        problem = fmt::format("expected {} bytes, found {}", file.bytes, have);
      }
    } catch (const HttpBroken& error) {
      problem = error.what();
    }
    attempt = have > before ? 0 : attempt + 1;
    if (!wait_before_retry(attempt))
      throw ResourceError(
          fmt::format("{}: {} (tried {} times)", request.url, problem, attempt));
  }
}

std::string Download::hash(const fs::path& path) const {
  const auto file = MappedFile::open(path);
  file->advise_sequential();
  constexpr std::size_t kChunk = std::size_t{16} << 20;
  Sha256 sha;
  auto bytes = file->bytes();
  while (!bytes.empty()) {
    if (options_.is_cancelled && options_.is_cancelled()) throw Interrupted();
    const std::size_t n = std::min(bytes.size(), kChunk);
    sha.update(bytes.first(n));
    bytes = bytes.subspan(n);
  }
  return sha.hex();
}

HttpResponse Download::perform(const HttpRequest& original) {
  HttpRequest request = original;
  request.token = options_.token;
  request.is_cancelled = options_.is_cancelled;
  for (int attempt = 1;; ++attempt) {
    std::string problem;
    try {
      const HttpResponse response = http_.perform(request);
      if (response.status != 429 && response.status < 500) return response;
      problem = fmt::format("HTTP status {}", response.status);
    } catch (const HttpBroken& error) {
      problem = error.what();
    }
    if (!wait_before_retry(attempt))
      throw ResourceError(
          fmt::format("cannot reach the model hub: {} (tried {} times; "
                      "HF_ENDPOINT chooses another, HF_HUB_OFFLINE=1 "
                      "uses the cache alone)",
                      problem, attempt));
  }
}

// False when the retries are used up.
bool Download::wait_before_retry(int attempt) const {
  if (attempt > options_.retries) return false;
  const auto end = std::chrono::steady_clock::now() +
                   options_.backoff * (1 << std::clamp(attempt - 1, 0, 5));
  while (std::chrono::steady_clock::now() < end) {
    if (options_.is_cancelled && options_.is_cancelled()) throw Interrupted();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return true;
}

void Download::check_status(const HttpResponse& response,
                            const std::string& what) const {
  if (response.status == 200 || response.status == 206) return;
  const std::string where =
      what.empty()
          ? fmt::format("hub model {}", quote(repository_))
          : fmt::format("hub model {}: file {}", quote(repository_), quote(what));
  const std::string code = response.header("x-error-code");
  if ((response.status == 401 || response.status == 403) && code != "RepoNotFound")
    throw ResourceError(fmt::format(
        "{}: access denied (HTTP {}): accept its terms on the hub if it is gated, and "
        "set HF_TOKEN to a token that may read it{}",
        where, response.status,
        options_.token.empty() ? " (none is set)" : " (the one set may not)"));
  if (response.status == 401 || response.status == 403 || response.status == 404)
    throw ResourceError(
        fmt::format("{}: not found at {} (revision {}); if it is private, set HF_TOKEN",
                    where, options_.endpoint, quote(revision_)));
  throw ResourceError(
      fmt::format("{}: expected HTTP 200, found {}", where, response.status));
}

std::string Download::file_url(const std::string& file) const {
  return fmt::format("{}/{}/resolve/{}/{}", options_.endpoint, repository_, commit_,
                     url_encode(file, Slash::kKeep));
}

void Download::report(const std::string& file, std::uint64_t file_bytes) const {
  if (options_.on_progress)
    options_.on_progress({file, done_bytes_ + file_bytes, total_bytes_});
}

}  // namespace optiq::checkpoint
