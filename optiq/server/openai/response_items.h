// The output of a response as its items come about: the one account that both the
// stream and the whole body are made of.
#pragma once
#include <string>
#include <vector>

#include "optiq/server/json_body.h"
#include "optiq/server/openai/wire.h"

namespace optiq::server::openai {

/// Turns events of an answer into those of the Responses API. Each has its sequence
/// number; items have their indices and keep their ids.
///
/// Threads   one.
class ResponseItems {
 public:
  struct Settings {
    std::string id, model;
    Json echoed = Json::object();  // what the request said, as replies repeat it
  };

  explicit ResponseItems(Settings settings) : settings_(std::move(settings)) {}

  /// response.created and response.in_progress.
  std::vector<Json> begin();
  std::vector<Json> event(const AnswerEvent& event);

  /// Closes what is open; then response.completed, incomplete.
  std::vector<Json> end(const AnswerEnd& end);
  std::vector<Json> fail(const ApiError& error);

  /// The response as it stands.
  Json response() const;

  /// The answer as a message, for those who go on from it.
  Json message() const;

 private:
  enum class Open { kNothing, kReasoning, kText, kCall };

  Json& item() { return output_.back(); }
  void add(const char* type, Json fields, std::vector<Json>& events);
  Json place() const;
  void open_text(std::vector<Json>& events);
  void open_reasoning(std::vector<Json>& events);
  void close(std::vector<Json>& events);

  const Settings settings_;
  const std::int64_t created_ = unix_time_s();
  int sequence_ = 0;
  Open open_ = Open::kNothing;
  std::string status_ = "in_progress";
  Json output_ = Json::array();
  Json error_ = nullptr, incomplete_ = nullptr, usage_ = nullptr;
  std::string text_, reasoning_;
  Json calls_ = Json::array();
};

}  // namespace optiq::server::openai
