#include "optiq/server/anthropic/flatten.h"

#include <fmt/format.h>

#include <string_view>

#include "optiq/server/api_error.h"

namespace optiq::server::anthropic {
namespace {

constexpr std::string_view kBilling = "x-anthropic-billing-header:";
constexpr std::size_t kMostBlocks = 100'000;

std::string note(const std::string& what) { return "[" + what + "]"; }

std::string media(const Fields& block, const char* what) {
  const auto source = block.object("source");
  const std::string type = source ? source->text("type").value_or("") : "";
  if (type == "text") return source->text("data").value_or("");
  if (type == "content") return content_text(*source, "content", {});
  const std::string media_type = source ? source->text("media_type").value_or("") : "";
  return note(media_type.empty() ? what : fmt::format("{}: {}", what, media_type));
}

std::string search_result(const Fields& block, const DeferredTools& deferred) {
  std::string text = block.text("title").value_or("");
  if (const auto source = block.text("source")) text += " (" + *source + ")";
  return text + "\n" + content_text(block, "content", deferred);
}

// The schema at the place where the search found it, in the form that the search tool's
// description promises; the head of the prompt stays as it is.
std::string tool_reference(const Fields& block, const DeferredTools& deferred) {
  const std::string name = block.text("tool_name").value_or("");
  const auto tool = deferred.find(name);
  if (tool == deferred.end()) return note("tool: " + name);
  return "<functions>\n<function>" +
         tool->second.dump(-1, ' ', false, Json::error_handler_t::replace) +
         "</function>\n</functions>";
}

void join(std::string& text, const std::string& piece) {
  if (!text.empty() && !piece.empty()) text += "\n";
  text += piece;
}

}  // namespace

std::string block_text(const Fields& block, const DeferredTools& deferred) {
  const std::string type = block.required_text("type");
  if (type == "text") return block.required_text("text");
  if (type == "image") return media(block, "image");
  if (type == "document") return media(block, "document");
  if (type == "search_result") return search_result(block, deferred);
  if (type == "tool_reference") return tool_reference(block, deferred);
  return note(type);
}

std::string content_text(const Fields& owner, const char* name,
                         const DeferredTools& deferred) {
  const Json* content = owner.find(name);
  if (!content) return "";
  if (content->is_string()) return content->get<std::string>();
  const Json* blocks = owner.array(name, kMostBlocks);
  std::string text;
  for (std::size_t i = 0; i < blocks->size(); ++i)
    join(text, block_text(Fields((*blocks)[i], owner.path(name, i)), deferred));
  return text;
}

std::string system_text(const Fields& body) {
  const Json* system = body.find("system");
  if (!system) return "";
  if (system->is_string()) {
    const auto text = system->get<std::string>();
    return text.starts_with(kBilling) ? "" : text;
  }
  const Json* blocks = body.array("system", kMostBlocks);
  std::string text;
  for (std::size_t i = 0; i < blocks->size(); ++i) {
    const std::string piece =
        block_text(Fields((*blocks)[i], body.path("system", i)), {});
    if (!piece.starts_with(kBilling)) join(text, piece);
  }
  return text;
}

}  // namespace optiq::server::anthropic
