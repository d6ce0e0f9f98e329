// Answers a chat request: renders the prompt, asks the engine, reads its text.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "optiq/server/chat/answer_event.h"
#include "optiq/server/chat/chat_request.h"
#include "optiq/server/chat/served_model.h"

namespace optiq::server {

/// A chat as the model reads it.
struct ChatPrompt {
  std::vector<int> tokens;
  std::vector<int> boundaries;       // as EngineRequest
  bool begins_in_reasoning = false;  // the prompt ends behind an open <think>
};

/// Answers that are on their way. Dropping it cancels them.
class Answering {
 public:
  virtual ~Answering() = default;
  virtual void cancel() = 0;
  virtual int prompt_tokens() const = 0;
};

/// Threads   any.
class ChatService {
 public:
  explicit ChatService(ServedModel model);

  const ServedModel& model() const { return model_; }

  /// Throws    std::invalid_argument: what the template refuses
  ChatPrompt render(const ChatRequest& request) const;

  /// Begins to answer: `request.n` times. When this returns, the request has been
  /// admitted.
  ///
  /// Throws    std::invalid_argument (with the field's name at the front where one is
  /// to
  ///           blame), generation::PromptTooLong, generation::EngineBusy: the listener
  ///           hears nothing then
  std::unique_ptr<Answering> answer(const ChatRequest& request,
                                    std::shared_ptr<AnswerListener> listener) const;

 private:
  struct Found;

  ServedModel model_;
  std::shared_ptr<const Found> found_;
};

}  // namespace optiq::server
