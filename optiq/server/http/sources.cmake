set(http_sources http/channel.cpp http/exchange.cpp http/gate.cpp http/http_server.cpp
                 http/target.cpp)
set(http_tests http/gate_test.cpp http/http_server_test.cpp http/target_test.cpp)
find_package(Boost 1.81 REQUIRED)
find_package(OpenSSL 3.0 REQUIRED)
set(http_libraries Boost::headers OpenSSL::SSL OpenSSL::Crypto)
# The libraries' templates are what takes time to compile, and nothing here is hot.
set_source_files_properties(http/http_server.cpp PROPERTIES COMPILE_OPTIONS -O1)
