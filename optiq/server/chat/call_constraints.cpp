#include "optiq/server/chat/call_constraints.h"

#include "optiq/base/log.h"
#include "optiq/server/chat/call_grammar.h"
#include "optiq/server/chat/schema.h"

namespace optiq::server {
namespace {

constexpr std::size_t kMostKept = 16;

std::shared_ptr<const text::Constraint> compile(const ServedModel& model,
                                                const ToolFormat& format,
                                                const Json& tools) {
  try {
    const DeclaredTools declared = enforceable(*model.grammars, tools);
    return std::make_shared<const text::Constraint>(
        model.grammars->compile(call_rest_grammar(format, *model.tokenizer, declared)));
  } catch (const std::exception& error) {
    log_debug("calls are not constrained: {}", error.what());
    return nullptr;
  }
}

}  // namespace

DeclaredTools enforceable(const text::GrammarCompiler& compiler, const Json& tools) {
  DeclaredTools all;
  for (const Json& tool : tools) {
    const Json& function = tool.at("function");
    all[function.at("name").get<std::string>()] =
        relaxed_schema(compiler, function.value("parameters", Json(Json::object())));
  }
  return all;
}

std::shared_ptr<const text::Constraint> CallConstraints::find(const ServedModel& model,
                                                              const ToolFormat& format,
                                                              const Json& tools) {
  if (!model.grammars || tools.empty() || opening_mark(format).empty()) return nullptr;
  const std::string key = tools.dump(-1, ' ', false, Json::error_handler_t::replace);
  {
    const std::lock_guard lock(mutex_);
    for (auto at = kept_.begin(); at != kept_.end(); ++at)
      if (at->first == key) {
        kept_.splice(kept_.begin(), kept_, at);
        return at->second;
      }
  }
  // Two that come at once both compile: better than one that waits for a hostile
  // schema.
  auto made = compile(model, format, tools);
  const std::lock_guard lock(mutex_);
  kept_.emplace_front(key, made);
  if (kept_.size() > kMostKept) kept_.pop_back();
  return made;
}

}  // namespace optiq::server
