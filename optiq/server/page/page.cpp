#include "optiq/server/page/page.h"

#include <fmt/format.h>

#include <cstdint>

namespace optiq::server {
namespace page {
std::string_view index_html();
std::string_view page_css();
std::string_view chat_js();
std::string_view layers_js();
std::string_view status_js();
}  // namespace page

namespace {

constexpr PageFile kFiles[] = {
    {"/", "text/html; charset=utf-8", page::index_html},
    {"/page/page.css", "text/css; charset=utf-8", page::page_css},
    {"/page/chat.js", "text/javascript; charset=utf-8", page::chat_js},
    {"/page/layers.js", "text/javascript; charset=utf-8", page::layers_js},
    {"/page/status.js", "text/javascript; charset=utf-8", page::status_js},
};

constexpr const char* kPolicy =
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

// FNV-1a, of 64 bits: tells one version of a file from another.
std::uint64_t hash(std::string_view bytes) {
  std::uint64_t h = 0xcbf29ce484222325;
  for (const char c : bytes) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return h;
}

}  // namespace

std::span<const PageFile> page_files() { return kFiles; }

http::Response page_response(const PageFile& file, const http::Request& request) {
  const std::string_view content = file.content();
  const std::string tag = fmt::format("\"{:016x}\"", hash(content));
  const bool known = request.header("if-none-match") == tag;
  return {.status = known ? 304 : 200,
          .content_type = file.content_type,
          .body = known ? "" : std::string(content),
          .headers = {{"ETag", tag},
                      {"Cache-Control", "no-cache"},
                      {"Content-Security-Policy", kPolicy},
                      {"X-Content-Type-Options", "nosniff"},
                      {"Referrer-Policy", "no-referrer"}}};
}

}  // namespace optiq::server
