set(anthropic_sources anthropic/flatten.cpp anthropic/messages.cpp
                      anthropic/read_messages.cpp anthropic/wire.cpp)
