# optiq_module(<name> SOURCES ... DEPENDS ... TESTS ...): one folder of optiq/, as
# the library optiq::<name>, with its unit tests beside its sources.
function(optiq_module name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS;TESTS" ${ARGN})
  add_library(optiq_${name} STATIC ${ARG_SOURCES})
  add_library(optiq::${name} ALIAS optiq_${name})
  target_include_directories(optiq_${name} PUBLIC
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}> $<INSTALL_INTERFACE:include>)
  target_link_libraries(optiq_${name} PUBLIC ${ARG_DEPENDS})
  if(OPTIQ_TESTS AND ARG_TESTS)
    optiq_test(${name} SOURCES ${ARG_TESTS} DEPENDS optiq::${name})
  endif()
endfunction()

# optiq_test(<name> SOURCES ... DEPENDS ...): one GoogleTest program, one ctest entry.
function(optiq_test name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS" ${ARGN})
  add_executable(${name}_test ${ARG_SOURCES})
  target_link_libraries(${name}_test PRIVATE ${ARG_DEPENDS} GTest::gtest_main)
  target_compile_definitions(${name}_test PRIVATE
    OPTIQ_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  add_test(NAME ${name} COMMAND ${name}_test)
endfunction()
