// What a chat template can take, found by asking it.
#pragma once
#include "optiq/server/chat/chat_request.h"
#include "optiq/text/chat_template.h"

namespace optiq::server {

/// Found once a model.
struct TemplateTraits {
  bool system_first = true;     // a system message at the front
  bool system_inline = true;    // one further on, rendered where it stands
  bool same_role_twice = true;  // two messages of a role in a row
};

TemplateTraits traits_of(const text::ChatTemplate& chat_template);

/// The messages in a form that the template takes and that changes nothing before a
/// message that came later. A system message that may not stand where it does becomes
/// text of the user's or tool's message before it; never is it moved to the front,
/// which would change what the prefix cache holds.
Json fit_messages(Json messages, const TemplateTraits& traits);

}  // namespace optiq::server
