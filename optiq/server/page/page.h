// The page at /: a chat, the bits of the model's layers, and what the server does now.
#pragma once
#include <span>
#include <string_view>

#include "optiq/server/http/http.h"

namespace optiq::server {

/// A file of the page, inside of the program.
struct PageFile {
  const char* path;  // "/" or "/page/chat.js"
  const char* content_type;
  std::string_view (*content)();
};

std::span<const PageFile> page_files();

/// The file with its ETag and a policy that lets the page load nothing from elsewhere;
/// 304 if the client has it.
http::Response page_response(const PageFile& file, const http::Request& request);

}  // namespace optiq::server
