#include "optiq/server/chat/tools/call_reader.h"
#include "optiq/server/chat/tools/json_stream.h"

namespace optiq::server {
namespace {

constexpr std::size_t kLongestName = 256;

class MistralCalls final : public CallReader {
 public:
  explicit MistralCalls(const DeclaredTools& tools) : tools_(tools) {}

  Status feed(char c, std::vector<AnswerEvent>& events) override {
    switch (where_) {
      case Where::kStart:
        if (is_space(c)) return Status::kMore;
        if (c != '[') {
          where_ = Where::kName;
          return read_name(c, events);
        }
        where_ = Where::kBetween;
        return Status::kMore;
      case Where::kBetween:
        return read_between(c, events);
      case Where::kCall:
        return read_call(c, events);
      case Where::kName:
        return read_name(c, events);
      case Where::kArguments:
        return read_arguments(c, events);
    }
    return Status::kFailed;
  }

  Status end(std::vector<AnswerEvent>& events) override {
    if (where_ == Where::kCall) call_->end(events);
    if (where_ == Where::kArguments) close(events);
    return begun_ && where_ == Where::kBetween ? Status::kDone : Status::kFailed;
  }

  bool begun() const override { return begun_ || (call_ && call_->begun()); }

 private:
  enum class Where { kStart, kBetween, kCall, kName, kArguments };

  static bool is_space(char c) {
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
  }

  Status read_between(char c, std::vector<AnswerEvent>& events) {
    if (is_space(c) || c == ',') return Status::kMore;
    if (c == ']') return Status::kDone;
    if (c != '{') return Status::kFailed;
    call_ = json_call();
    where_ = Where::kCall;
    return read_call(c, events);
  }

  Status read_call(char c, std::vector<AnswerEvent>& events) {
    const Status status = call_->feed(c, events);
    begun_ = begun_ || call_->begun();
    if (status != Status::kDone) return status;
    where_ = Where::kBetween;
    return Status::kMore;
  }

  // NAME[ARGS]{ or NAME{.
  Status read_name(char c, std::vector<AnswerEvent>& events) {
    if (c != '{') {
      name_ += c;
      return name_.size() > kLongestName || c == '\n' ? Status::kFailed : Status::kMore;
    }
    if (const auto mark = name_.find('['); mark != std::string::npos)
      name_.resize(mark);
    while (!name_.empty() && is_space(name_.back())) name_.pop_back();
    if (!tools_.contains(name_)) return Status::kFailed;
    begun_ = true;
    events.push_back(ToolCallBegin{new_call_id(), name_});
    where_ = Where::kArguments;
    return read_arguments(c, events);
  }

  Status read_arguments(char c, std::vector<AnswerEvent>& events) {
    std::string passed;
    const JsonStream::Status status = json_.feed(c, passed);
    if (status == JsonStream::Status::kBad) {
      close(events);
      return Status::kFailed;
    }
    if (!passed.empty()) events.push_back(ToolCallArguments{std::move(passed)});
    if (status == JsonStream::Status::kMore) return Status::kMore;
    events.push_back(ToolCallEnd{});
    return Status::kDone;
  }

  void close(std::vector<AnswerEvent>& events) {
    events.push_back(ToolCallArguments{json_.closing()});
    events.push_back(ToolCallEnd{});
  }

  const DeclaredTools& tools_;
  Where where_ = Where::kStart;
  std::unique_ptr<CallReader> call_;
  JsonStream json_;
  std::string name_;
  bool begun_ = false;
};

}  // namespace

std::unique_ptr<CallReader> mistral_calls(const DeclaredTools& tools) {
  return std::make_unique<MistralCalls>(tools);
}

}  // namespace optiq::server
