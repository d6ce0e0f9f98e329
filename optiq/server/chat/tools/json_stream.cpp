#include "optiq/server/chat/tools/json_stream.h"

#include <fmt/format.h>

#include <cstring>
#include <string_view>

namespace optiq::server {
namespace {

constexpr std::size_t kMostDepth = 100;

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

// -?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?, or where that broke off.
struct NumberForm {
  bool possible = true;
  bool whole = false;
};

NumberForm number_form(std::string_view text) {
  std::size_t i = 0;
  const auto digits = [&] {
    const std::size_t begin = i;
    while (i < text.size() && is_digit(text[i])) ++i;
    return i > begin;
  };
  if (i < text.size() && text[i] == '-') ++i;
  if (i == text.size()) return {true, false};
  if (text[i] == '0')
    ++i;
  else if (!digits())
    return {false, false};
  if (i < text.size() && text[i] == '.') {
    ++i;
    if (i == text.size()) return {true, false};
    if (!digits()) return {false, false};
  }
  if (i < text.size() && (text[i] == 'e' || text[i] == 'E')) {
    ++i;
    if (i < text.size() && (text[i] == '+' || text[i] == '-')) ++i;
    if (i == text.size()) return {true, false};
    if (!digits()) return {false, false};
  }
  return {i == text.size(), i == text.size()};
}

const char* literal_for(char c) {
  return c == 't' ? "true" : c == 'f' ? "false" : c == 'n' ? "null" : nullptr;
}

}  // namespace

JsonStream::Status JsonStream::feed(char c, std::string& out) {
  if (expect_ == Expect::kNumber && !number_form(token_ + c).possible) {
    if (!number_form(token_).whole) return Status::kBad;
    end_value();
    if (expect_ == Expect::kNothing) return Status::kDone;
  }
  return step(c, out);
}

void JsonStream::end_value() {
  token_.clear();
  if (open_.empty()) {
    expect_ = Expect::kNothing;
    return;
  }
  expect_ = Expect::kCommaOrEnd;
  if (open_.size() == 1) in_value_ = false;
}

JsonStream::Status JsonStream::begin_value(char c, std::string& out) {
  if (open_.size() == 1 && open_[0] == '{') in_value_ = true;
  out += c;
  if (c == '{' || c == '[') {
    if (open_.size() == kMostDepth) return Status::kBad;
    open_.push_back(c);
    expect_ = c == '{' ? Expect::kKeyOrEnd : Expect::kValueOrEnd;
    return Status::kMore;
  }
  if (c == '"') {
    is_key_ = false;
    expect_ = Expect::kString;
    return Status::kMore;
  }
  token_ = c;
  if (literal_for(c)) {
    expect_ = Expect::kLiteral;
    return Status::kMore;
  }
  if (is_digit(c) || c == '-') {
    expect_ = Expect::kNumber;
    return Status::kMore;
  }
  out.pop_back();
  token_.clear();
  return Status::kBad;
}

JsonStream::Status JsonStream::end_container(char c, std::string& out) {
  const char opening = c == '}' ? '{' : c == ']' ? '[' : '\0';
  if (open_.empty() || open_.back() != opening) return Status::kBad;
  out += c;
  open_.pop_back();
  end_value();
  return expect_ == Expect::kNothing ? Status::kDone : Status::kMore;
}

JsonStream::Status JsonStream::step(char c, std::string& out) {
  switch (expect_) {
    case Expect::kString:
      if (static_cast<unsigned char>(c) < 0x20) {
        out += c == '\n'   ? "\\n"
               : c == '\t' ? "\\t"
               : c == '\r' ? "\\r"
                           : fmt::format("\\u{:04x}", static_cast<int>(c));
        return Status::kMore;
      }
      out += c;
      if (c == '\\') {
        expect_ = Expect::kEscape;
      } else if (c != '"') {
        if (is_key_ && open_.size() == 1) key_ += c;
      } else if (is_key_) {
        expect_ = Expect::kColon;
      } else {
        end_value();
        if (expect_ == Expect::kNothing) return Status::kDone;
      }
      return Status::kMore;
    case Expect::kEscape:
      if (!std::strchr("\"\\/bfnrtu", c) || c == '\0') return Status::kBad;
      out += c;
      hex_left_ = c == 'u' ? 4 : 0;
      expect_ = c == 'u' ? Expect::kHex : Expect::kString;
      return Status::kMore;
    case Expect::kHex:
      if (!std::strchr("0123456789abcdefABCDEF", c) || c == '\0') return Status::kBad;
      out += c;
      if (--hex_left_ == 0) expect_ = Expect::kString;
      return Status::kMore;
    case Expect::kLiteral: {
      const char* literal = literal_for(token_[0]);
      if (c != literal[token_.size()]) return Status::kBad;
      token_ += c;
      out += c;
      if (literal[token_.size()] == '\0') end_value();
      return expect_ == Expect::kNothing ? Status::kDone : Status::kMore;
    }
    case Expect::kNumber:
      token_ += c;
      out += c;
      return Status::kMore;
    default:
      break;
  }
  if (is_space(c)) {
    out += c;
    return Status::kMore;
  }
  switch (expect_) {
    case Expect::kValueOrEnd:
      if (c == ']') return end_container(c, out);
      return begin_value(c, out);
    case Expect::kValue:
      return begin_value(c, out);
    case Expect::kKeyOrEnd:
      if (c == '}') return end_container(c, out);
      [[fallthrough]];
    case Expect::kKey:
      if (c != '"') return Status::kBad;
      if (open_.size() == 1) key_.clear();
      is_key_ = true;
      expect_ = Expect::kString;
      out += c;
      return Status::kMore;
    case Expect::kColon:
      if (c != ':') return Status::kBad;
      expect_ = Expect::kValue;
      out += c;
      return Status::kMore;
    case Expect::kCommaOrEnd:
      if (c != ',') return end_container(c, out);
      expect_ = open_.back() == '{' ? Expect::kKey : Expect::kValue;
      out += c;
      return Status::kMore;
    default:
      return Status::kBad;
  }
}

std::string JsonStream::closing() const {
  std::string text;
  bool needs_value = false;
  switch (expect_) {
    case Expect::kHex:
      text.append(static_cast<std::size_t>(hex_left_), '0');
      [[fallthrough]];
    case Expect::kString:
    case Expect::kEscape:
      if (expect_ == Expect::kEscape) text += '\\';
      text += '"';
      if (is_key_) text += ": null";
      break;
    case Expect::kLiteral:
      text += literal_for(token_[0]) + token_.size();
      break;
    case Expect::kNumber:
      if (!number_form(token_).whole) text += '0';
      break;
    case Expect::kColon:
      text += ": null";
      break;
    case Expect::kKey:
      text += "\"\": null";
      break;
    case Expect::kValue:
      needs_value = true;
      break;
    default:
      break;
  }
  if (needs_value) text += "null";
  for (auto at = open_.rbegin(); at != open_.rend(); ++at)
    text += *at == '{' ? '}' : ']';
  return text;
}

}  // namespace optiq::server
