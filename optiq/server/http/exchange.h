// An exchange over a channel: writes the head and the pieces of an answer in the form
// of HTTP/1.1.
#pragma once
#include <memory>

#include "optiq/server/http/channel.h"
#include "optiq/server/http/http.h"

namespace optiq::server::http {

/// How the answer to one request is to be framed.
struct Framing {
  bool http_1_0 = false;   // no chunks: the end of the connection ends the answer
  bool keep_alive = true;  // the connection goes on afterwards
  bool head_only = false;  // to HEAD
};

/// The bytes of a whole answer.
std::string whole_answer(const Response& response, const std::string& request_id,
                         const Framing& framing);

std::shared_ptr<Exchange> make_exchange(Request request, Framing framing,
                                        std::shared_ptr<Channel> channel,
                                        std::function<Response()> unanswered);

/// "Not Found" for 404.
const char* reason(int status);

}  // namespace optiq::server::http
