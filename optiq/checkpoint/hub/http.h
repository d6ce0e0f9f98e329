// HTTP through libcurl: one request at a time, redirects by hand, a token for one host.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>

#include "optiq/base/error.h"

namespace optiq::checkpoint {

struct HttpRequest {
  std::string url;
  std::string token;  // sent to the url's own host and to no other
  bool head = false;
  bool follow_other_hosts = true;  // else a redirect to another host is the answer
  std::uint64_t range_begin = 0;   // asks for the bytes from here on
  std::function<bool()> is_cancelled;
  /// Body of a 200 or 206 as it comes; `begin` is the offset that the server states.
  std::function<void(std::uint64_t begin, std::span<const std::byte>)> on_body;
};

struct HttpResponse {
  long status = 0;
  std::map<std::string, std::string> headers;  // of the last answer, lower case
  std::string body;                            // of errors, cut to 4 KiB

  std::string header(const std::string& name) const;
};

/// A connection that failed or broke off; trying again may help.
class HttpBroken : public ResourceError {
 public:
  using ResourceError::ResourceError;
};

class Http {
 public:
  Http();
  Http(const Http&) = delete;
  Http& operator=(const Http&) = delete;
  ~Http();

  /// Performs one request and up to 10 redirects.
  ///
  /// Throws    HttpBroken (a ResourceError) if there is no whole answer; Interrupted if
  ///           cancelled; whatever on_body throws.
  HttpResponse perform(const HttpRequest& request);

 private:
  struct Curl;
  std::unique_ptr<Curl> curl_;
};

}  // namespace optiq::checkpoint
