// The adapters that are mounted on a model, by name.
#pragma once
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "optiq/models/adapter.h"

namespace optiq::models {

/// Threads   any. What find() gave stays whole after its adapter is removed.
class Mounts {
 public:
  /// Throws    std::invalid_argument if the name is taken, empty, holds `+` or `,`, or
  ///           means no adapter
  void add(const std::string& id, AdapterPtr adapter);

  /// Throws    std::invalid_argument if there is no such adapter
  void remove(const std::string& id);

  /// The adapter of a name; of several names with `+` or `,` between them, the stack
  /// of those. None for the names of no adapter.
  ///
  /// Throws    std::invalid_argument for a name that is not mounted
  AdapterPtr find(const std::string& id) const;

  std::vector<std::string> ids() const;  // sorted

 private:
  AdapterPtr one(const std::string& id) const;

  mutable std::mutex mutex_;
  std::map<std::string, AdapterPtr> adapters_;
  mutable std::map<std::string, AdapterPtr> stacks_;
};

/// True for what requests write for no adapter: `base`, `none`, `off` and nothing.
bool means_no_adapter(const std::string& id);

}  // namespace optiq::models
