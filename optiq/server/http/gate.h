// Who may ask: API keys, and the marks by which a browser gives away that a foreign web
// page does the asking.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "optiq/server/api_error.h"
#include "optiq/server/http/http.h"

namespace optiq::server::http {

struct GateOptions {
  std::vector<std::string> api_keys;  // none: everybody on this machine may ask
  std::vector<std::string> hosts;     // values of Host besides the loopback names
  std::vector<std::string> origins;   // of web pages that may ask
};

/// Without keys, a server on a loopback address could be asked by any web page that the
/// user has open: directly (Origin is then foreign), as a form (its content type is not
/// JSON), or by a name that is made to point here (Host is then foreign).
///
/// Threads   any.
class Gate {
 public:
  /// Throws    std::invalid_argument for an empty key
  explicit Gate(GateOptions options);

  /// Why the request is turned away; none if it may pass.
  ///
  /// Cost      keys are compared by their hashes, in a time that tells nothing of them.
  std::optional<ApiError> refusal(const Request& request) const;

 private:
  std::optional<ApiError> check_key(const Request& request) const;
  bool known_host(std::string_view host) const;

  std::vector<std::string> key_hashes_;
  std::vector<std::string> hosts_;
  std::vector<std::string> origins_;
};

}  // namespace optiq::server::http
