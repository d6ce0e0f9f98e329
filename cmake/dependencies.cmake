# What optiq stands on. Versions are pinned in scripts/apt-packages.txt,
# scripts/requirements-mlx.txt and optiq/text/rust/Cargo.lock.
find_package(Threads REQUIRED)
find_package(nlohmann_json 3.11 REQUIRED)
find_package(fmt REQUIRED)

# The MLX wheel, unpacked by scripts/setup. OpenBLAS stands before it on the link
# line, so that its cblas_sgemm is the one that MLX's own operations call.
if(OPTIQ_CUDA)
  include(cuda)
else()
  set(OPTIQ_MLX_ROOT ${PROJECT_SOURCE_DIR}/.deps/python/mlx CACHE PATH "The MLX wheel")
  find_package(MLX CONFIG REQUIRED PATHS ${OPTIQ_MLX_ROOT} NO_DEFAULT_PATH)
endif()
add_library(optiq_mlx INTERFACE)
if(NOT APPLE)
  find_library(OPENBLAS_LIBRARY openblas REQUIRED)
  target_link_libraries(optiq_mlx INTERFACE
    -Wl,--no-as-needed ${OPENBLAS_LIBRARY} -Wl,--as-needed)
endif()
target_link_libraries(optiq_mlx INTERFACE mlx)
add_library(optiq::mlx ALIAS optiq_mlx)

if(OPTIQ_TESTS)
  find_package(GTest REQUIRED)
endif()
