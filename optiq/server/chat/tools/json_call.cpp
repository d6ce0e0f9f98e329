#include <random>

#include "optiq/server/chat/tools/call_reader.h"
#include "optiq/server/chat/tools/json_stream.h"

namespace optiq::server {
namespace {

using Json = nlohmann::ordered_json;

class JsonCall final : public CallReader {
 public:
  explicit JsonCall(const DeclaredTools* declared) : declared_(declared) {}

  Status feed(char c, std::vector<AnswerEvent>& events) override {
    std::string passed;
    const bool was_in_value = json_.in_value();
    const JsonStream::Status status = json_.feed(c, passed);
    if (status == JsonStream::Status::kBad) return fail(events);
    if (!started_) {
      if (passed.find_first_not_of(" \t\r\n") == std::string::npos)
        return Status::kMore;
      if (passed[0] != '{') return fail(events);
      started_ = true;
      return Status::kMore;
    }
    // A scalar's value ends with the character behind it.
    const bool in_value = json_.in_value() || (was_in_value && passed != "," &&
                                               status != JsonStream::Status::kDone);
    if (in_value) take(passed);
    if (was_in_value && !json_.in_value()) end_value();
    if (arguments_open_ && !name_.empty()) {
      if (!begin(events)) return fail(events);
      tell(events);
    }
    if (status != JsonStream::Status::kDone) return Status::kMore;
    return finish(events) ? Status::kDone : Status::kFailed;
  }

  Status end(std::vector<AnswerEvent>& events) override { return fail(events); }

  bool begun() const override { return begun_; }

 private:
  void take(const std::string& passed) {
    if (json_.key() == "name") {
      name_json_ += passed;
    } else if (is_arguments() && !arguments_over_) {
      arguments_ += passed;
      if (arguments_.starts_with('{')) arguments_open_ = true;
    }
  }

  bool is_arguments() const {
    return json_.key() == "arguments" || json_.key() == "parameters";
  }

  void end_value() {
    if (is_arguments()) arguments_over_ = true;
    if (json_.key() != "name" || !name_.empty()) return;
    const Json name = Json::parse(name_json_, nullptr, false);
    if (name.is_string()) name_ = name.get<std::string>();
  }

  bool begin(std::vector<AnswerEvent>& events) {
    if (begun_) return true;
    if (name_.empty() || (declared_ && !declared_->contains(name_))) return false;
    begun_ = true;
    events.push_back(ToolCallBegin{new_call_id(), name_});
    return true;
  }

  void tell(std::vector<AnswerEvent>& events) {
    if (told_ == arguments_.size()) return;
    events.push_back(ToolCallArguments{arguments_.substr(told_)});
    told_ = arguments_.size();
  }

  bool finish(std::vector<AnswerEvent>& events) {
    if (!begin(events)) return false;
    if (!arguments_open_) arguments_ = object_of(arguments_);
    tell(events);
    events.push_back(ToolCallEnd{});
    return true;
  }

  // Some models write the object as a string, or nothing where there are no arguments.
  static std::string object_of(const std::string& value) {
    Json parsed = Json::parse(value, nullptr, false);
    if (parsed.is_string())
      parsed = Json::parse(parsed.get_ref<const std::string&>(), nullptr, false);
    return parsed.is_object() ? parsed.dump() : "{}";
  }

  // A call that was begun is completed.
  Status fail(std::vector<AnswerEvent>& events) {
    if (!begun_) return Status::kFailed;
    if (!arguments_over_) {
      std::string rest = json_.closing();
      rest.pop_back();  // the outer object's own brace
      events.push_back(ToolCallArguments{std::move(rest)});
    }
    events.push_back(ToolCallEnd{});
    return Status::kFailed;
  }

  const DeclaredTools* declared_;
  JsonStream json_;
  bool started_ = false;
  bool begun_ = false;
  bool arguments_open_ = false;
  bool arguments_over_ = false;
  std::string name_json_, name_, arguments_;
  std::size_t told_ = 0;
};

}  // namespace

std::unique_ptr<CallReader> json_call(const DeclaredTools* declared) {
  return std::make_unique<JsonCall>(declared);
}

std::string new_call_id() {
  constexpr char kLetters[] =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
  thread_local std::mt19937_64 random{std::random_device{}()};
  std::string id = "call_";
  for (int i = 0; i < 24; ++i) id += kLetters[random() % (sizeof kLetters - 1)];
  return id;
}

}  // namespace optiq::server
