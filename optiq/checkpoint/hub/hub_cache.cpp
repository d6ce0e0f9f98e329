#include "optiq/checkpoint/hub/hub_cache.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cctype>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <system_error>
#include <thread>

#include "optiq/base/error.h"
#include "optiq/base/file.h"
#include "optiq/checkpoint/hub/hub_names.h"
#include "optiq/checkpoint/json_file.h"

namespace optiq::checkpoint {
namespace fs = std::filesystem;
namespace {

std::string folder_name(const std::string& repository) {
  const std::size_t slash = repository.find('/');
  return fmt::format("models--{}--{}", repository.substr(0, slash),
                     repository.substr(slash + 1));
}

void make_directories(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error)
    throw ResourceError(
        fmt::format("{}: cannot make a directory: {}", path.string(), error.message()));
}

// A snapshot may be half there: what Python left, or a download that was stopped.
bool is_complete(const fs::path& snapshot) {
  std::error_code error;
  if (!fs::exists(snapshot / "config.json", error) &&
      !fs::exists(snapshot / "adapter_config.json", error))
    return false;
  const fs::path index = snapshot / "model.safetensors.index.json";
  if (fs::exists(index, error)) {
    try {
      const nlohmann::json json = read_json_object(index);
      for (const auto& [name, file] : json.at("weight_map").items())
        if (!fs::exists(snapshot / file.get<std::string>(), error)) return false;
      return true;
    } catch (const std::exception&) {
      return false;
    }
  }
  for (const auto& entry : fs::directory_iterator(snapshot, error))
    if (entry.path().extension() == ".safetensors" && fs::exists(entry.path(), error))
      return true;
  return false;
}

}  // namespace

HubCache::HubCache(fs::path hub, const std::string& repository)
    : hub_(std::move(hub)), root_(hub_ / folder_name(repository)) {
  OPTIQ_CHECK(is_hub_id(repository), "a checked hub id");
}

fs::path HubCache::blob(const std::string& etag) const {
  return root_ / "blobs" / etag;
}

fs::path HubCache::incomplete(const std::string& etag) const {
  return root_ / "blobs" / (etag + ".incomplete");
}

fs::path HubCache::snapshot(const std::string& commit) const {
  return root_ / "snapshots" / commit;
}

fs::path HubCache::lock_file(const std::string& etag) const {
  return hub_ / ".locks" / root_.filename() / (etag + ".lock");
}

std::optional<std::string> HubCache::commit_of(const std::string& revision) const {
  if (is_commit(revision)) return revision;
  const fs::path ref = root_ / "refs" / revision;
  std::error_code error;
  if (!fs::is_regular_file(ref, error)) return std::nullopt;
  std::string commit = read_file(ref, 4096);
  while (!commit.empty() && std::isspace(static_cast<unsigned char>(commit.back())))
    commit.pop_back();
  return is_commit(commit) ? std::optional(commit) : std::nullopt;
}

std::optional<fs::path> HubCache::find(const std::string& revision) const {
  const auto commit = commit_of(revision);
  if (!commit || !is_complete(snapshot(*commit))) return std::nullopt;
  return snapshot(*commit);
}

void HubCache::create() const {
  make_directories(root_ / "blobs");
  make_directories(hub_ / ".locks" / root_.filename());
}

void HubCache::link(const std::string& commit, const std::string& file,
                    const std::string& etag) const {
  const fs::path link = snapshot(commit) / file;
  make_directories(link.parent_path());
  const fs::path target = blob(etag).lexically_relative(link.parent_path());
  std::error_code error;
  if (fs::is_symlink(link, error) && fs::read_symlink(link, error) == target) return;
  const fs::path temporary = link.string() + fmt::format(".tmp-{}", ::getpid());
  fs::remove(temporary, error);
  fs::create_symlink(target, temporary, error);
  if (!error) fs::rename(temporary, link, error);
  if (error)
    throw ResourceError(
        fmt::format("{}: cannot link: {}", link.string(), error.message()));
}

void HubCache::write_ref(const std::string& revision, const std::string& commit) const {
  if (is_commit(revision)) return;
  const fs::path ref = root_ / "refs" / revision;
  make_directories(ref.parent_path());
  write_file_atomic(ref, commit);
}

FileLock::FileLock(const fs::path& file, const std::function<bool()>& is_cancelled)
    : fd_(::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666)) {
  while (fd_ >= 0 && ::flock(fd_, LOCK_EX | LOCK_NB) != 0 &&
         (errno == EWOULDBLOCK || errno == EINTR)) {
    if (is_cancelled && is_cancelled()) {
      ::close(fd_);
      throw Interrupted();
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  if (fd_ < 0)
    throw ResourceError(
        fmt::format("{}: cannot lock: {}", file.string(), std::strerror(errno)));
}

FileLock::~FileLock() { ::close(fd_); }

}  // namespace optiq::checkpoint
