# Fails if an object of a SIMD source defines a weak symbol: the linker keeps one copy of
# those, which may be the one of a wider instruction set than the CPU has.
# cmake -DNM=<nm> -DOBJECTS=<a|b|...> -P no_weak_symbols.cmake
string(REPLACE "|" ";" objects "${OBJECTS}")
if(NOT objects)
  message(FATAL_ERROR "no objects to look at")
endif()
foreach(object ${objects})
  execute_process(COMMAND ${NM} -C ${object} OUTPUT_VARIABLE symbols
                  RESULT_VARIABLE result)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "cannot read ${object}")
  endif()
  # W, V: weak; u: unique, which is as bad.
  string(REGEX MATCHALL "[0-9a-f]+ [WVu] [^\n]+" weak "${symbols}")
  if(weak)
    message(SEND_ERROR "${object} defines weak symbols:\n${weak}")
  endif()
endforeach()
