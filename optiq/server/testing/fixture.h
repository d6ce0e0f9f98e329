// What tests of the server share: the demo model's words with a scripted engine, and a
// listener that remembers.
#pragma once
#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>

#include "optiq/server/chat/chat_service.h"
#include "optiq/server/testing/scripted_engine.h"

namespace optiq::server::testing {

inline ServedModel scripted_model(int context_length = 16384) {
  const std::string directory = OPTIQ_SOURCE_DIR "/models/demo";
  ServedModel model;
  model.id = "demo";
  model.created_s = 1'700'000'000;
  static const auto* const tokenizer = new std::shared_ptr<const text::Tokenizer>(
      std::make_shared<const text::Tokenizer>(text::Tokenizer::load(directory)));
  model.tokenizer = *tokenizer;
  model.chat_template = std::make_shared<const text::ChatTemplate>(
      *text::ChatTemplate::load(directory, *model.tokenizer));
  model.end_ids = {*model.tokenizer->token_id("<|im_end|>")};
  static const auto* const grammars = new std::shared_ptr<const text::GrammarCompiler>(
      std::make_shared<const text::GrammarCompiler>(
          *model.tokenizer, 8192,
          std::vector<int>(model.end_ids.begin(), model.end_ids.end())));
  model.grammars = *grammars;
  model.engine = std::make_shared<ScriptedEngine>(model.tokenizer, model.end_ids, 8192,
                                                  context_length);
  return model;
}

class Heard : public AnswerListener {
 public:
  struct Call {
    std::string name, arguments;
  };
  struct Choice {
    std::string text, reasoning;
    std::vector<Call> calls;
    std::optional<AnswerEnd> end;
  };

  void event(int choice, AnswerEvent event) override {
    const std::lock_guard lock(mutex_);
    Choice& one = choices[choice];
    if (auto* piece = std::get_if<TextPiece>(&event)) one.text += piece->text;
    if (auto* piece = std::get_if<ReasoningPiece>(&event)) one.reasoning += piece->text;
    if (auto* call = std::get_if<ToolCallBegin>(&event))
      one.calls.push_back({call->name, ""});
    if (auto* piece = std::get_if<ToolCallArguments>(&event))
      one.calls.back().arguments += piece->json;
  }

  void ended(int choice, AnswerEnd end) override {
    const std::lock_guard lock(mutex_);
    choices[choice].end = std::move(end);
    ++ended_;
    changed_.notify_all();
  }

  bool wait(int n) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(20),
                             [&] { return ended_ >= n; });
  }

  std::map<int, Choice> choices;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int ended_ = 0;
};

}  // namespace optiq::server::testing
