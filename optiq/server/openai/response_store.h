// Conversations that a later response may go on from (previous_response_id).
#pragma once
#include <list>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "optiq/server/json_body.h"

namespace optiq::server::openai {

/// Keeps the last few hundred in memory; the oldest goes first.
///
/// Threads   any.
class ResponseStore {
 public:
  void keep(const std::string& id, Json messages);

  /// The messages up to and with that response; none if it is not kept (any more).
  std::optional<Json> find(const std::string& id) const;

 private:
  mutable std::mutex mutex_;
  std::list<std::pair<std::string, Json>> kept_;  // the youngest first
};

}  // namespace optiq::server::openai
