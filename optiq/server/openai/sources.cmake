set(openai_sources
  openai/chat_completions.cpp openai/completions.cpp openai/embeddings.cpp
  openai/read_chat.cpp openai/read_response.cpp openai/response_items.cpp
  openai/response_store.cpp openai/responses.cpp openai/wire.cpp)
