// Which adapter a request asks for.
#pragma once
#include "optiq/models/adapter.h"
#include "optiq/server/chat/served_model.h"
#include "optiq/server/json_body.h"

namespace optiq::server {

/// By `adapter` or `adapters` in the body: a name, several ("a+b", or an array), or
/// none
/// (`base`, `none`, `off`, an empty text); else by a `model` that is an adapter's name;
/// else the adapter that the server has for requests without a choice.
///
/// Returns   null for the base alone
/// Throws    ApiError 400 for a name that is not mounted
models::AdapterPtr chosen_adapter(const Fields& body, const ServedModel& model);

}  // namespace optiq::server
