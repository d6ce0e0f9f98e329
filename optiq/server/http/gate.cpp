#include "optiq/server/http/gate.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <algorithm>
#include <stdexcept>

namespace optiq::server::http {
namespace {

std::string sha256(std::string_view text) {
  unsigned char digest[SHA256_DIGEST_LENGTH];
  ::SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest);
  return {reinterpret_cast<const char*>(digest), sizeof digest};
}

std::string lower_case(std::string_view text) {
  std::string lower(text);
  for (char& c : lower)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return lower;
}

// "localhost" of "localhost:8080", "[::1]" of "[::1]:8080".
std::string_view without_port(std::string_view host) {
  const auto colon = host.rfind(':');
  const auto bracket = host.rfind(']');
  const bool has_port = colon != std::string_view::npos &&
                        (bracket == std::string_view::npos || colon > bracket);
  return has_port ? host.substr(0, colon) : host;
}

bool is_loopback(std::string_view name) {
  if (name == "localhost" || name == "[::1]" || name.ends_with(".localhost"))
    return true;
  // An address in digits, not a name that begins like one.
  return name.starts_with("127.") &&
         name.find_first_not_of("0123456789.") == std::string_view::npos;
}

bool is_json(std::string_view content_type) {
  std::string type = lower_case(content_type.substr(0, content_type.find(';')));
  while (!type.empty() && (type.back() == ' ' || type.back() == '\t')) type.pop_back();
  return type == "application/json";
}

std::string_view key_of(const Request& request) {
  constexpr std::string_view kBearer = "bearer ";
  const std::string_view authorization = request.header("authorization");
  if (lower_case(authorization.substr(0, kBearer.size())) == kBearer)
    return authorization.substr(kBearer.size());
  return request.header("x-api-key");
}

}  // namespace

Gate::Gate(GateOptions options)
    : hosts_(std::move(options.hosts)), origins_(std::move(options.origins)) {
  for (const std::string& key : options.api_keys) {
    if (key.empty()) throw std::invalid_argument("an API key may not be empty");
    key_hashes_.push_back(sha256(key));
  }
  for (std::string& host : hosts_) host = lower_case(host);
}

bool Gate::known_host(std::string_view host) const {
  const std::string name = lower_case(without_port(host));
  return is_loopback(name) ||
         std::ranges::any_of(hosts_, [&](const std::string& known) {
           return known == name || known == lower_case(host);
         });
}

std::optional<ApiError> Gate::check_key(const Request& request) const {
  const std::string given = sha256(key_of(request));
  int matches = 0;
  for (const std::string& hash : key_hashes_)
    matches |= ::CRYPTO_memcmp(hash.data(), given.data(), hash.size()) == 0;
  if (matches != 0) return std::nullopt;
  return ApiError(401,
                  "expected an API key of this server, as Authorization: Bearer KEY or "
                  "x-api-key: KEY",
                  "", "invalid_api_key");
}

std::optional<ApiError> Gate::refusal(const Request& request) const {
  const std::string_view host = request.header("host");
  if (key_hashes_.empty() && !host.empty() && !known_host(host))
    return ApiError(403,
                    "this name of the server is not known (Host): --allow-host NAME "
                    "lets it in");
  if (const std::string_view origin = request.header("origin"); !origin.empty()) {
    const auto scheme = origin.find("://");
    const bool own =
        scheme != std::string_view::npos && origin.substr(scheme + 3) == host;
    if (!own && std::ranges::find(origins_, origin) == origins_.end())
      return ApiError(
          403,
          "web pages of this origin may not ask: --allow-origin ORIGIN lets "
          "them");
  }
  if (request.method == "POST" && !is_json(request.header("content-type")))
    return ApiError(415, "expected Content-Type: application/json");
  return key_hashes_.empty() ? std::nullopt : check_key(request);
}

}  // namespace optiq::server::http
