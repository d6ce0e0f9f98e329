# The CUDA build (OPTIQ_CUDA): nvcc and MLX's wheel for CUDA, unpacked by
# `scripts/setup --cuda`. Both wheels of MLX have the same headers and names: those of the
# CPU's are used, so that all but the kernels compiles as without CUDA.
set(OPTIQ_CUDA_ROOT ${PROJECT_SOURCE_DIR}/.deps/cuda CACHE PATH
  "MLX's wheel for CUDA beside NVIDIA's")
set(OPTIQ_MLX_HEADERS ${PROJECT_SOURCE_DIR}/.deps/python/mlx/include CACHE PATH
  "MLX's headers")
set(OPTIQ_MLX_ROOT ${OPTIQ_CUDA_ROOT}/mlx)
set(toolkit ${OPTIQ_CUDA_ROOT}/nvidia/cu13)
if(NOT EXISTS ${OPTIQ_MLX_ROOT}/lib/libmlx.so OR NOT EXISTS ${toolkit}/bin/nvcc)
  message(FATAL_ERROR "no CUDA toolkit in ${OPTIQ_CUDA_ROOT}: run scripts/setup --cuda")
endif()
set(CMAKE_CUDA_COMPILER ${toolkit}/bin/nvcc)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
# Ampere, Ada, Hopper, Blackwell; what is newer compiles the last one when it starts.
set(CMAKE_CUDA_ARCHITECTURES "80-real;89-real;90a-real;100-real;100-virtual" CACHE STRING
  "Compute capabilities")
# Googletest's macros leave a member that nothing names.
set(CMAKE_CUDA_FLAGS_INIT "-diag-suppress 177")
enable_language(CUDA)
# Older CMakes do not know this nvcc's flags for standards.
set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)

# MLX's own CMake package would ask for cuDNN's headers.
add_library(mlx SHARED IMPORTED)
set_target_properties(mlx PROPERTIES
  IMPORTED_LOCATION ${OPTIQ_MLX_ROOT}/lib/libmlx.so
  INTERFACE_INCLUDE_DIRECTORIES ${OPTIQ_MLX_HEADERS}
  INTERFACE_LINK_OPTIONS "LINKER:--unresolved-symbols=ignore-in-shared-libs")
add_library(optiq_cuda_runtime INTERFACE)
target_include_directories(optiq_cuda_runtime SYSTEM INTERFACE ${toolkit}/include)
target_link_directories(optiq_cuda_runtime INTERFACE ${toolkit}/lib)
target_link_libraries(optiq_cuda_runtime INTERFACE cudart_static dl rt)
add_library(optiq::cuda_runtime ALIAS optiq_cuda_runtime)
