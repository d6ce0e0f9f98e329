// How a model writes tool calls: found in what its chat template makes of one.
#pragma once
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "optiq/server/chat/tools/call_reader.h"
#include "optiq/text/chat_template.h"

namespace optiq::server {

/// What opens a group of calls in the text of an answer.
struct CallMark {
  std::string_view text;
  bool line_start = false;    // only there
  bool answer_start = false;  // only as the first thing of an answer
  bool part_of_call = false;  // the reader reads it too
  std::unique_ptr<CallReader> (*reader)(const DeclaredTools&);
};

/// A way to write calls; the registry row.
struct ToolFormat {
  const char* name;
  std::span<const CallMark> marks;
};

std::span<const ToolFormat> tool_formats();

/// The format in which the template shows the model its own calls; the first of the
/// registry where it shows none.
const ToolFormat& tool_format_of(const text::ChatTemplate& chat_template);

}  // namespace optiq::server
