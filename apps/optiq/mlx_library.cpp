#include "mlx_library.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

namespace optiq::app {
namespace {

// True where there is a driver, and a device for it.
bool has_device() {
  void* driver = dlopen("libcuda.so.1", RTLD_LAZY);
  if (!driver) return false;
  using Initialize = int (*)(unsigned);
  using Count = int (*)(int*);
  const auto initialize = reinterpret_cast<Initialize>(dlsym(driver, "cuInit"));
  const auto count = reinterpret_cast<Count>(dlsym(driver, "cuDeviceGetCount"));
  int devices = 0;
  return initialize && count && initialize(0) == 0 && count(&devices) == 0 &&
         devices > 0;
}

}  // namespace

void choose_mlx_library(char** argv) {
  constexpr const char* kChosen = "OPTIQ_MLX_CUDA";
  constexpr const char* kPath = "LD_LIBRARY_PATH";
  if (std::getenv(kChosen) || !has_device()) return;
  std::string path = OPTIQ_CUDA_LIBRARIES;
  const char* set = std::getenv(kPath);
  const std::string before = set ? set : "";
  if (!before.empty()) path += ":" + before;
  setenv(kPath, path.c_str(), 1);
  setenv(kChosen, "1", 1);
  execv("/proc/self/exe", argv);  // returns only if it fails: then on the CPU
  if (set)
    setenv(kPath, before.c_str(), 1);
  else
    unsetenv(kPath);
}

}  // namespace optiq::app
