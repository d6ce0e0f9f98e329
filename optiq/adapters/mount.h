// Adapters by name on a model, and which of them is active on a thread.
#pragma once
#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include "optiq/adapters/load_adapter.h"
#include "optiq/models/model.h"

namespace optiq::adapters {

/// Reads an adapter and mounts it by a name. The base's weights stay as they are.
///
/// Throws    as load_adapter() and models::Mounts::add()
/// Threads   any, also while the model answers.
std::shared_ptr<const LoadedAdapter> mount(models::Model& model, const std::string& id,
                                           const std::filesystem::path& directory);

/// Takes an adapter off. What is being computed with it goes on to its end.
///
/// Throws    std::invalid_argument if no adapter of the name is mounted
void unmount(models::Model& model, const std::string& id);

/// While it lives, sessions used on this thread answer with the adapter of that name;
/// `a+b` is both, `base` none. Scopes nest, the inner one wins; other threads do not
/// see it, but for tasks made by inheriting().
class AdapterActivation {
 public:
  explicit AdapterActivation(std::string id);
  ~AdapterActivation();
  AdapterActivation(const AdapterActivation&) = delete;
  AdapterActivation& operator=(const AdapterActivation&) = delete;

  /// The name that is active on this thread; empty: none.
  static const std::string& current();

 private:
  std::string previous_;
};

/// A task for another thread that runs under what is active on this one now.
template <class Task>
auto inheriting(Task task) {
  return
      [id = AdapterActivation::current(),
       task = std::move(task)]<class... Arguments>(Arguments&&... arguments) mutable {
        const AdapterActivation scope(id);
        return task(std::forward<Arguments>(arguments)...);
      };
}

/// The adapter that is active on this thread; none if the base answers, and for a model
/// on which no adapter is mounted at all.
///
/// Throws    std::invalid_argument if others are mounted on this model, but not it
std::shared_ptr<const models::Adapter> active_adapter(const models::Model& model);

}  // namespace optiq::adapters
