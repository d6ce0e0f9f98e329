// Calibration samples as a model's own tokens.
#pragma once
#include <optional>

#include "optiq/sensitivity/calibration.h"
#include "optiq/text/chat_template.h"
#include "optiq/text/tokenizer.h"

namespace optiq::sensitivity {

/// Samples of text as they are, messages through the template; where there is none, or
/// it refuses them (a role it does not know, say), role by role.
///
/// Requires  both outlive what is returned
Tokenize tokenize_with(const text::Tokenizer& tokenizer,
                       const std::optional<text::ChatTemplate>& chat_template);

}  // namespace optiq::sensitivity
