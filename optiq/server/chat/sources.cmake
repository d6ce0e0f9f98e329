set(chat_sources
  chat/answer_parser.cpp chat/answer_policy.cpp chat/call_constraints.cpp
  chat/call_grammar.cpp chat/chat_service.cpp
  chat/prompt_form.cpp chat/schema.cpp chat/served_adapters.cpp chat/tools/json_call.cpp
  chat/tools/json_stream.cpp chat/tools/mistral_calls.cpp chat/tools/tool_format.cpp
  chat/tools/xml_call.cpp)
set(chat_tests chat/answer_parser_test.cpp chat/chat_service_test.cpp
               chat/prompt_form_test.cpp chat/tools/json_stream_test.cpp)
