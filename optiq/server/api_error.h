// An error that a client is told: its HTTP status, and what was wrong.
#pragma once
#include <optional>
#include <stdexcept>
#include <string>

namespace optiq::server {

/// Each API writes it in its own envelope.
class ApiError : public std::runtime_error {
 public:
  ApiError(int status, const std::string& message, std::string param = "",
           std::string code = "")
      : std::runtime_error(message),
        status(status),
        param(std::move(param)),
        code(std::move(code)) {}

  int status;
  std::string param;  // the field to blame; empty: none
  std::string code;   // OpenAI's `code`, e.g. "context_length_exceeded"; empty: none
  std::optional<int> retry_after_s;
};

}  // namespace optiq::server
