#include "optiq/adapters/mount.h"

namespace optiq::adapters {
namespace {

thread_local std::string active;

}  // namespace

std::shared_ptr<const LoadedAdapter> mount(models::Model& model, const std::string& id,
                                           const std::filesystem::path& directory) {
  auto adapter = load_adapter(directory, model);
  model.mounts().add(id, adapter);
  return adapter;
}

void unmount(models::Model& model, const std::string& id) { model.mounts().remove(id); }

AdapterActivation::AdapterActivation(std::string id)
    : previous_(std::exchange(active, std::move(id))) {}

AdapterActivation::~AdapterActivation() { active = std::move(previous_); }

const std::string& AdapterActivation::current() { return active; }

std::shared_ptr<const models::Adapter> active_adapter(const models::Model& model) {
  return active.empty() || model.mounts().ids().empty() ? nullptr
                                                        : model.mounts().find(active);
}

}  // namespace optiq::adapters
