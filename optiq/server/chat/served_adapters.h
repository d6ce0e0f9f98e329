// The adapters that requests may choose, and how each request does.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "optiq/adapters/load_adapter.h"
#include "optiq/models/mounts.h"

namespace optiq::server {

/// Threads   any. A request that has begun keeps its adapter to its end.
class ServedAdapters {
 public:
  using Load = std::function<std::shared_ptr<const adapters::LoadedAdapter>(
      const std::string& source)>;

  /// `load` turns what a user calls an adapter (a directory, a hub id) into one.
  explicit ServedAdapters(Load load) : load_(std::move(load)) {}

  struct Entry {
    std::string id;
    std::string source;
    std::int64_t created_s = 0;
    int modules = 0;
    std::uint64_t bytes = 0;
    std::string summary;  // "rank 4 to 16, by_bits, alpha 16"
  };

  /// Throws    as `load`, and std::invalid_argument for a name that is taken or none
  Entry mount(const std::string& id, const std::string& source);

  /// Throws    std::invalid_argument if there is no such adapter
  void unmount(const std::string& id);

  /// The adapter of a name, a stack of several ("a+b"), or none ("base").
  ///
  /// Throws    std::invalid_argument for names that are not mounted
  models::AdapterPtr find(const std::string& choice) const {
    return mounts_.find(choice);
  }
  bool has(const std::string& id) const;
  std::vector<Entry> list() const;  // by id

  /// What answers requests that choose neither by `model` nor by `adapter`; empty: the
  /// base.
  std::string default_id() const;
  void set_default(const std::string& id);

 private:
  const Load load_;
  models::Mounts mounts_;
  mutable std::mutex mutex_;
  std::map<std::string, Entry> entries_;
  std::string default_;
};

}  // namespace optiq::server
