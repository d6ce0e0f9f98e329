#include "optiq/server/chat/tools/call_reader.h"

namespace optiq::server {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kLongestName = 256;

// The types that a schema allows, "type": "x" or ["x", "y"]; none: any.
bool allows(const Json& schema, const char* type) {
  if (!schema.is_object()) return false;
  const auto at = schema.find("type");
  if (at == schema.end()) return false;
  if (at->is_array()) {
    for (const Json& one : *at)
      if (one == type) return true;
    return false;
  }
  return *at == type;
}

class XmlCall final : public CallReader {
 public:
  XmlCall(const DeclaredTools& tools, bool declared_only)
      : tools_(tools), declared_only_(declared_only) {}

  Status feed(char c, std::vector<AnswerEvent>& events) override {
    text_ += c;
    switch (where_) {
      case Where::kName:
        return read_name(c, events);
      case Where::kBetween:
        return read_between(events);
      case Where::kKey:
        return read_key(c, events);
      case Where::kValue:
        return read_value(events);
    }
    return Status::kFailed;
  }

  Status end(std::vector<AnswerEvent>& events) override { return fail(events); }

  bool begun() const override { return begun_; }

 private:
  enum class Where { kName, kBetween, kKey, kValue };

  Status read_name(char c, std::vector<AnswerEvent>& events) {
    if (c == '\n' || text_.size() > kLongestName) return Status::kFailed;
    if (c != '>') return Status::kMore;
    text_.pop_back();
    while (!text_.empty() && (text_.back() == ' ' || text_.back() == '"'))
      text_.pop_back();
    const auto tool = tools_.find(text_);
    if (text_.empty() || (declared_only_ && tool == tools_.end()))
      return Status::kFailed;
    if (tool != tools_.end()) schema_ = tool->second;
    begun_ = true;
    events.push_back(ToolCallBegin{new_call_id(), text_});
    go(Where::kBetween);
    return Status::kMore;
  }

  Status read_between(std::vector<AnswerEvent>& events) {
    const auto first = text_.find_first_not_of(" \t\r\n");
    if (first == std::string::npos) return Status::kMore;
    const std::string_view rest = std::string_view(text_).substr(first);
    constexpr std::string_view kParameter = "<parameter=", kEnd = "</function>";
    if (rest == kParameter) {
      go(Where::kKey);
      return Status::kMore;
    }
    if (rest == kEnd) {
      close(events);
      return Status::kDone;
    }
    if (kParameter.starts_with(rest) || kEnd.starts_with(rest)) return Status::kMore;
    return fail(events);
  }

  Status read_key(char c, std::vector<AnswerEvent>& events) {
    if (c == '\n' || text_.size() > kLongestName) return fail(events);
    if (c != '>') return Status::kMore;
    text_.pop_back();
    key_ = text_;
    go(Where::kValue);
    return Status::kMore;
  }

  Status read_value(std::vector<AnswerEvent>& events) {
    constexpr std::string_view kEnd = "</parameter>";
    if (!text_.ends_with(kEnd)) return Status::kMore;
    text_.resize(text_.size() - kEnd.size());
    tell_value(events);
    go(Where::kBetween);
    return Status::kMore;
  }

  void tell_value(std::vector<AnswerEvent>& events) {
    // The template puts the value on lines of its own.
    std::string value = text_;
    if (value.starts_with('\n')) value.erase(0, 1);
    if (value.ends_with('\n')) value.pop_back();
    std::string piece = n_values_++ == 0 ? "{" : ", ";
    piece += Json(key_).dump(-1, ' ', false, Json::error_handler_t::replace) + ": " +
             typed(value).dump(-1, ' ', false, Json::error_handler_t::replace);
    events.push_back(ToolCallArguments{std::move(piece)});
  }

  Json typed(const std::string& value) const {
    Json schema;
    if (const auto all = schema_.find("properties");
        all != schema_.end() && all->is_object())
      if (const auto one = all->find(key_); one != all->end()) schema = *one;
    if (allows(schema, "string")) return value;
    const Json parsed = Json::parse(value, nullptr, false);
    return parsed.is_discarded() ? Json(value) : parsed;
  }

  void close(std::vector<AnswerEvent>& events) {
    events.push_back(ToolCallArguments{n_values_ == 0 ? "{}" : "}"});
    events.push_back(ToolCallEnd{});
  }

  Status fail(std::vector<AnswerEvent>& events) {
    if (!begun_) return Status::kFailed;
    if (where_ == Where::kValue) tell_value(events);
    close(events);
    return Status::kFailed;
  }

  void go(Where where) {
    where_ = where;
    text_.clear();
  }

  const DeclaredTools& tools_;
  const bool declared_only_;
  Json schema_ = Json::object();
  Where where_ = Where::kName;
  bool begun_ = false;
  int n_values_ = 0;
  std::string text_, key_;
};

// Behind <tool_call>: the first character tells which of the two forms it is.
class TaggedCall final : public CallReader {
 public:
  explicit TaggedCall(const DeclaredTools& tools) : tools_(tools) {}

  Status feed(char c, std::vector<AnswerEvent>& events) override {
    if (call_over_) return read_end(c);
    if (!call_) {
      opening_ += c;
      return begin(events);
    }
    const Status status = call_->feed(c, events);
    if (status != Status::kDone) return status;
    call_over_ = true;
    return Status::kMore;
  }

  // A call that is whole needs no closing tag.
  Status end(std::vector<AnswerEvent>& events) override {
    if (call_over_) return Status::kDone;
    return call_ ? call_->end(events) : Status::kFailed;
  }

  bool begun() const override { return call_ && call_->begun(); }

 private:
  Status begin(std::vector<AnswerEvent>& events) {
    const auto first = opening_.find_first_not_of(" \t\r\n");
    if (first == std::string::npos) return Status::kMore;
    const std::string_view rest = std::string_view(opening_).substr(first);
    constexpr std::string_view kFunction = "<function=";
    if (rest == "{") {
      call_ = json_call();
      return call_->feed('{', events);
    }
    if (rest == kFunction) {
      call_ = xml_call(tools_, false);
      return Status::kMore;
    }
    return kFunction.starts_with(rest) ? Status::kMore : Status::kFailed;
  }

  Status read_end(char c) {
    constexpr std::string_view kEnd = "</tool_call>";
    if (closing_.empty() && (c == ' ' || c == '\n' || c == '\r' || c == '\t'))
      return Status::kMore;
    closing_ += c;
    if (closing_ == kEnd) return Status::kDone;
    // One brace too many is the commonest slip of small models.
    if (closing_ == "}") {
      closing_.clear();
      return Status::kMore;
    }
    return kEnd.starts_with(closing_) ? Status::kMore : Status::kNotTaken;
  }

  const DeclaredTools& tools_;
  std::unique_ptr<CallReader> call_;
  std::string opening_, closing_;
  bool call_over_ = false;
};

}  // namespace

std::unique_ptr<CallReader> xml_call(const DeclaredTools& tools, bool declared_only) {
  return std::make_unique<XmlCall>(tools, declared_only);
}

std::unique_ptr<CallReader> tagged_call(const DeclaredTools& tools) {
  return std::make_unique<TaggedCall>(tools);
}

}  // namespace optiq::server
