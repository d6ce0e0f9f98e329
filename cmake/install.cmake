# cmake --install: a bundle that can be moved as a whole.
#
#   bin/optiq                 the program
#   lib/liboptiq.so           every module as one library
#   include/optiq/            their headers
#   lib/cmake/optiq/          find_package(optiq), which gives optiq::optiq
#   lib/optiq/                MLX as its wheel lays it out, found through $ORIGIN
#   share/optiq/models/demo   the model that every command knows as `demo`
#
# The libraries of scripts/apt-packages.txt stay the system's. scripts/install runs it.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(bundle ${CMAKE_INSTALL_LIBDIR}/optiq)

# Static modules become one shared library: all of each, whether referred to or not.
get_property(modules DIRECTORY ${PROJECT_SOURCE_DIR}/optiq PROPERTY SUBDIRECTORIES)
set(whole_modules)
file(WRITE ${PROJECT_BINARY_DIR}/liboptiq.cpp "// Its code is in the modules.\n")
add_library(optiq_library SHARED EXCLUDE_FROM_ALL ${PROJECT_BINARY_DIR}/liboptiq.cpp)
foreach(module ${modules})
  get_filename_component(module ${module} NAME)
  add_dependencies(optiq_library optiq_${module})
  if(APPLE)
    list(APPEND whole_modules -Wl,-force_load,$<TARGET_FILE:optiq_${module}>)
  else()
    list(APPEND whole_modules $<TARGET_FILE:optiq_${module}>)
  endif()
endforeach()
if(NOT APPLE)
  set(whole_modules -Wl,--whole-archive ${whole_modules} -Wl,--no-whole-archive)
endif()
find_package(spdlog REQUIRED)
find_package(CURL REQUIRED)
find_package(OpenSSL 3.0 REQUIRED)
target_link_libraries(optiq_library
  PRIVATE ${whole_modules} optiq_text_rust optiq::mlx spdlog::spdlog CURL::libcurl
          OpenSSL::SSL OpenSSL::Crypto
  PUBLIC $<INSTALL_INTERFACE:mlx> nlohmann_json::nlohmann_json fmt::fmt
         Threads::Threads)
target_compile_features(optiq_library PUBLIC cxx_std_20)
set_target_properties(optiq_library PROPERTIES
  OUTPUT_NAME optiq
  EXPORT_NAME optiq
  VERSION ${PROJECT_VERSION}
  SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})

if(APPLE)
  set(origin @loader_path)
else()
  set(origin $ORIGIN)
endif()
set_target_properties(optiq PROPERTIES
  INSTALL_RPATH "${origin}/../${bundle}/mlx/lib")
set_target_properties(optiq_library PROPERTIES
  INSTALL_RPATH "${origin}/optiq/mlx/lib")

install(TARGETS optiq RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS optiq_library EXPORT optiq
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
  INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/optiq DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
  FILES_MATCHING PATTERN "*.h"
  PATTERN testdata EXCLUDE PATTERN testing.h EXCLUDE PATTERN rust EXCLUDE)
get_filename_component(wheel ${OPTIQ_MLX_ROOT} DIRECTORY)
file(GLOB mlx_libraries ${wheel}/mlx_*.libs)
install(DIRECTORY ${OPTIQ_MLX_ROOT} ${mlx_libraries} DESTINATION ${bundle}
  USE_SOURCE_PERMISSIONS)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/models/demo
  DESTINATION ${CMAKE_INSTALL_DATADIR}/optiq/models)

set(package ${CMAKE_INSTALL_LIBDIR}/cmake/optiq)
install(EXPORT optiq FILE optiqTargets.cmake NAMESPACE optiq:: DESTINATION ${package})
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/optiqConfig.cmake.in
  ${PROJECT_BINARY_DIR}/optiqConfig.cmake INSTALL_DESTINATION ${package}
  PATH_VARS bundle)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/optiqConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/optiqConfig.cmake
              ${PROJECT_BINARY_DIR}/optiqConfigVersion.cmake
  DESTINATION ${package})
