// Which tokens an answer may have: what its format, its tools and its budget for
// thinking demand.
#pragma once
#include <memory>

#include "optiq/generate/engine/token_policy.h"
#include "optiq/server/chat/call_constraints.h"
#include "optiq/server/chat/chat_request.h"
#include "optiq/server/chat/chat_service.h"
#include "optiq/server/chat/tools/tool_format.h"

namespace optiq::server {

/// Compiles what a request demands once; each of its answers gets a policy of its own.
class PolicyMaker {
 public:
  /// Throws    std::invalid_argument for a format that cannot be enforced
  PolicyMaker(const ServedModel& model, const ChatRequest& request,
              const ChatPrompt& prompt, const ToolFormat& format,
              CallConstraints& calls);
  ~PolicyMaker();

  /// Null where anything may come.
  std::unique_ptr<generation::TokenPolicy> make() const;

 private:
  struct Demands;
  std::unique_ptr<Demands> demands_;
};

}  // namespace optiq::server
