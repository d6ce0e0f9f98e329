// The constraint on a call that a model begins by itself, compiled once for a set of
// tools.
#pragma once
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "optiq/server/chat/chat_request.h"
#include "optiq/server/chat/served_model.h"
#include "optiq/server/chat/tools/tool_format.h"
#include "optiq/text/constraint.h"

namespace optiq::server {

/// Clients send the same tools with each request, often tens of kilobytes of them.
///
/// Threads   any.
class CallConstraints {
 public:
  /// What may stand behind the opening mark of a call of these tools; null where the
  /// format has no such mark or the schemas cannot be enforced.
  std::shared_ptr<const text::Constraint> find(const ServedModel& model,
                                               const ToolFormat& format,
                                               const Json& tools);

 private:
  std::mutex mutex_;
  // By the tools' JSON, the youngest first.
  std::list<std::pair<std::string, std::shared_ptr<const text::Constraint>>> kept_;
};

/// The tools by name, each schema as far as a grammar takes it.
DeclaredTools enforceable(const text::GrammarCompiler& compiler, const Json& tools);

}  // namespace optiq::server
