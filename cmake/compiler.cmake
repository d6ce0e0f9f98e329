# Warnings, sanitizers, ccache and the linker, for every target of ours.
find_program(CCACHE ccache)
if(CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE})
endif()

add_compile_options(-Wall -Wextra -Wno-unused-parameter -Wno-psabi)
if(CMAKE_BUILD_TYPE STREQUAL "Release")
  add_compile_options(-O2)
endif()

if(OPTIQ_SANITIZE)
  add_compile_options(-fsanitize=${OPTIQ_SANITIZE} -fno-omit-frame-pointer -g)
  add_link_options(-fsanitize=${OPTIQ_SANITIZE})
endif()

find_program(MOLD mold)
if(MOLD AND NOT APPLE)
  add_link_options(-fuse-ld=mold)
endif()
