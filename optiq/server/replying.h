// From what an answer's listener hears to what an exchange sends: the same for all
// APIs, each of which gives it the words.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "optiq/server/api.h"
#include "optiq/server/api_error.h"

namespace optiq::server {

/// The frames of one stream. Calls come one at a time.
class StreamWriter {
 public:
  virtual ~StreamWriter() = default;
  /// Once the request is admitted.
  virtual std::string begin(int prompt_tokens) = 0;
  virtual std::string started(int choice, int cached_tokens) { return {}; }
  virtual std::string token(int choice, const TokenRecord& token) { return {}; }
  virtual std::string event(int choice, const AnswerEvent& event) = 0;
  virtual std::string ended(int choice, const AnswerEnd& end) = 0;
  virtual std::string finish() { return {}; }  // behind the last choice's end
  virtual std::string failed(const ApiError& error) = 0;  // ends the stream
  virtual std::string keep_alive() = 0;
};

/// One choice's answer, put together.
struct WholeChoice {
  struct Call {
    std::string id, name, arguments;
  };
  std::string text, reasoning;
  std::vector<Call> calls;
  std::vector<TokenRecord> tokens;
  AnswerEnd end;
};

/// Answers as a stream of server-sent events. The head goes out as soon as the request
/// is admitted; a client that leaves or does not read cancels it.
///
/// Throws    as ChatService::answer(): nothing has been answered then
void stream_answer(const ApiContext& context, std::shared_ptr<http::Exchange> exchange,
                   const ChatService& service, const ChatRequest& request,
                   std::unique_ptr<StreamWriter> writer);

/// Answers with one body, made of the choices; `failed` makes that of an error.
///
/// Throws    as ChatService::answer()
void whole_answer(const ApiContext& context, std::shared_ptr<http::Exchange> exchange,
                  const ChatService& service, const ChatRequest& request,
                  std::function<http::Response(std::vector<WholeChoice> choices)> make,
                  std::function<http::Response(const ApiError& error)> failed);

/// The error that a client is told for what a route threw.
ApiError told_error(const std::exception& error);

}  // namespace optiq::server
