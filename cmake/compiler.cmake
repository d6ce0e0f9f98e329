# Warnings, sanitizers, ccache and the linker, for every target of ours.
find_program(CCACHE ccache)
if(CCACHE)
  # The sloppiness lets ccache keep what was compiled with a precompiled header.
  set(CMAKE_CXX_COMPILER_LAUNCHER
    ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros ${CCACHE})
endif()

# Not for nvcc, which has warnings of its own.
foreach(option -Wall -Wextra -Wno-unused-parameter -Wno-psabi)
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:${option}>)
endforeach()
if(CMAKE_BUILD_TYPE STREQUAL "Release")
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-O2>)
endif()

if(OPTIQ_SANITIZE)
  # -O1: checks inside unrolled kernels cost the optimizer minutes a file at -O2.
  add_compile_options(-fsanitize=${OPTIQ_SANITIZE} -fno-omit-frame-pointer -O1 -g1)
  add_link_options(-fsanitize=${OPTIQ_SANITIZE})
endif()

find_program(MOLD mold)
if(MOLD AND NOT APPLE)
  add_link_options(-fuse-ld=mold)
endif()
