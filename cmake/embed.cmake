# optiq_embed(<target> FILE <file> FUNCTION <namespace::function>): the bytes of a file
# as a function that returns a std::string_view.
function(optiq_embed target)
  cmake_parse_arguments(ARG "" "FILE;FUNCTION" "" ${ARGN})
  string(REGEX REPLACE "::[^:]*$" "" namespace ${ARG_FUNCTION})
  string(REGEX REPLACE "^.*::" "" function ${ARG_FUNCTION})
  set(source ${CMAKE_CURRENT_BINARY_DIR}/${function}.cpp)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${ARG_FILE})
  file(READ ${ARG_FILE} bytes HEX)
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
  file(CONFIGURE OUTPUT ${source} CONTENT
"#include <string_view>
namespace ${namespace} {
std::string_view ${function}() {
  static const unsigned char bytes[] = {${bytes}};
  return {reinterpret_cast<const char*>(bytes), sizeof bytes};
}
}  // namespace ${namespace}
")
  target_sources(${target} PRIVATE ${source})
endfunction()
