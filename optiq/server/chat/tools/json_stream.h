// JSON as it comes, character by character: what is passed on is always the beginning
// of a valid value.
#pragma once
#include <string>
#include <vector>

namespace optiq::server {

/// One value. Control characters inside of strings, which models write and JSON
/// forbids, are escaped on the way; any other mistake is told.
class JsonStream {
 public:
  enum class Status { kMore, kDone, kBad };

  /// Takes one byte; appends to `out` what stands for it. After kDone or kBad nothing
  /// more is taken. A number at the top ends only with the next character.
  Status feed(char c, std::string& out);

  /// What makes a whole value of what was passed on.
  std::string closing() const;

  /// In an object at the top: the key whose value is being read, as it was written.
  const std::string& key() const { return key_; }

  /// True while inside of the value of key().
  bool in_value() const { return in_value_; }

 private:
  enum class Expect {
    kValue,
    kValueOrEnd,  // behind '['
    kKeyOrEnd,    // behind '{'
    kKey,         // behind ',' in an object
    kColon,
    kCommaOrEnd,
    kString,
    kEscape,
    kHex,
    kLiteral,
    kNumber,
    kNothing,
  };

  Status step(char c, std::string& out);
  Status begin_value(char c, std::string& out);
  Status end_container(char c, std::string& out);
  void end_value();

  std::vector<char> open_;  // '{' and '['
  Expect expect_ = Expect::kValue;
  bool is_key_ = false;
  bool in_value_ = false;
  int hex_left_ = 0;
  std::string token_;  // of the literal or number
  std::string key_;
};

}  // namespace optiq::server
