#include "optiq/checkpoint/hub/http.h"

#include <curl/curl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <exception>
#include <mutex>
#include <string_view>

#include "optiq/base/error.h"

namespace optiq::checkpoint {
namespace {

constexpr int kMaxRedirects = 10;
constexpr std::size_t kMaxErrorBody = 4096;
constexpr std::size_t kMaxHeaders = 200;
constexpr long kConnectTimeoutS = 20;
constexpr long kStallS = 60;  // a transfer without a byte for this long is broken

// What one exchange collects; exceptions cannot cross libcurl's C frames.
struct Exchange {
  const HttpRequest* request;
  CURL* curl;
  HttpResponse response;
  std::uint64_t offset = 0;
  bool body_began = false;
  std::exception_ptr error;
};

std::string lower(std::string_view text) {
  std::string result(text);
  std::ranges::transform(result, result.begin(), [](unsigned char c) {
    return static_cast<char>(std::tolower(c));
  });
  return result;
}

std::string_view trim(std::string_view text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.front())))
    text.remove_prefix(1);
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back())))
    text.remove_suffix(1);
  return text;
}

std::size_t on_header(char* data, std::size_t, std::size_t n, void* user) {
  auto& exchange = *static_cast<Exchange*>(user);
  const std::string_view line(data, n);
  if (line.starts_with("HTTP/")) exchange.response.headers.clear();
  const std::size_t colon = line.find(':');
  if (colon != std::string_view::npos && exchange.response.headers.size() < kMaxHeaders)
    exchange.response.headers[lower(trim(line.substr(0, colon)))] =
        std::string(trim(line.substr(colon + 1)));
  return n;
}

// Where a 206 says that its body begins: "bytes 100-199/200".
std::uint64_t range_begin(const HttpResponse& response) {
  const std::string text = response.header("content-range");
  constexpr std::string_view kUnit = "bytes ";
  std::uint64_t begin = 0;
  if (!text.starts_with(kUnit) ||
      std::from_chars(text.data() + kUnit.size(), text.data() + text.size(), begin)
              .ec != std::errc())
    throw HttpBroken(fmt::format("expected a Content-Range, found '{}'", text));
  return begin;
}

std::size_t on_data(char* data, std::size_t, std::size_t n, void* user) {
  auto& exchange = *static_cast<Exchange*>(user);
  try {
    long status = 0;
    curl_easy_getinfo(exchange.curl, CURLINFO_RESPONSE_CODE, &status);
    if (status == 200 || status == 206) {
      if (!exchange.body_began)
        exchange.offset = status == 206 ? range_begin(exchange.response) : 0;
      exchange.body_began = true;
      if (exchange.request->on_body)
        exchange.request->on_body(exchange.offset,
                                  std::as_bytes(std::span<const char>(data, n)));
      exchange.offset += n;
    } else if (exchange.response.body.size() < kMaxErrorBody) {
      exchange.response.body.append(
          data, std::min(n, kMaxErrorBody - exchange.response.body.size()));
    }
    return n;
  } catch (...) {
    exchange.error = std::current_exception();
    return 0;
  }
}

int on_progress(void* user, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  auto& exchange = *static_cast<Exchange*>(user);
  if (!exchange.request->is_cancelled || !exchange.request->is_cancelled()) return 0;
  exchange.error = std::make_exception_ptr(Interrupted());
  return 1;
}

// Scheme, host and port: whom a token may be shown to.
std::string origin(const std::string& url) {
  CURLU* parsed = curl_url();
  std::string result;
  if (parsed != nullptr &&
      curl_url_set(parsed, CURLUPART_URL, url.c_str(), 0) == CURLUE_OK)
    for (const CURLUPart part : {CURLUPART_SCHEME, CURLUPART_HOST, CURLUPART_PORT}) {
      char* text = nullptr;
      if (curl_url_get(parsed, part, &text, CURLU_DEFAULT_PORT) == CURLUE_OK)
        result += lower(text) + " ";
      curl_free(text);
    }
  curl_url_cleanup(parsed);
  return result;
}

}  // namespace

std::string HttpResponse::header(const std::string& name) const {
  const auto found = headers.find(name);
  return found == headers.end() ? "" : found->second;
}

struct Http::Curl {
  Curl() {
    static std::once_flag once;
    std::call_once(once, [] { curl_global_init(CURL_GLOBAL_DEFAULT); });
    handle = curl_easy_init();
    if (handle == nullptr) throw ResourceError("cannot start an HTTP client");
  }
  ~Curl() { curl_easy_cleanup(handle); }
  Curl(const Curl&) = delete;
  Curl& operator=(const Curl&) = delete;

  Exchange exchange(const HttpRequest& request, const std::string& url,
                    bool with_token);

  CURL* handle;
};

Http::Http() : curl_(std::make_unique<Curl>()) {}
Http::~Http() = default;

Exchange Http::Curl::exchange(const HttpRequest& request, const std::string& url,
                              bool with_token) {
  Exchange result{&request, handle, {}, 0, false, nullptr};
  curl_easy_reset(handle);  // keeps connections
  curl_slist* headers = nullptr;
  if (with_token && !request.token.empty())
    headers =
        curl_slist_append(headers, ("Authorization: Bearer " + request.token).c_str());
  const std::string range = fmt::format("{}-", request.range_begin);
  curl_easy_setopt(handle, CURLOPT_URL, url.c_str());
  curl_easy_setopt(handle, CURLOPT_HTTPHEADER, headers);
  curl_easy_setopt(handle, CURLOPT_USERAGENT, "optiq");
  curl_easy_setopt(handle, CURLOPT_NOBODY, request.head ? 1L : 0L);
  if (request.range_begin > 0) curl_easy_setopt(handle, CURLOPT_RANGE, range.c_str());
  curl_easy_setopt(handle, CURLOPT_FOLLOWLOCATION, 0L);
#if LIBCURL_VERSION_NUM >= 0x075500
  curl_easy_setopt(handle, CURLOPT_PROTOCOLS_STR, "http,https");
#else
  curl_easy_setopt(handle, CURLOPT_PROTOCOLS, CURLPROTO_HTTP | CURLPROTO_HTTPS);
#endif
  curl_easy_setopt(handle, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(handle, CURLOPT_CONNECTTIMEOUT, kConnectTimeoutS);
  curl_easy_setopt(handle, CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(handle, CURLOPT_LOW_SPEED_TIME, kStallS);
  curl_easy_setopt(handle, CURLOPT_BUFFERSIZE, 256L * 1024);
  curl_easy_setopt(handle, CURLOPT_HEADERFUNCTION, on_header);
  curl_easy_setopt(handle, CURLOPT_HEADERDATA, &result);
  curl_easy_setopt(handle, CURLOPT_WRITEFUNCTION, on_data);
  curl_easy_setopt(handle, CURLOPT_WRITEDATA, &result);
  curl_easy_setopt(handle, CURLOPT_NOPROGRESS, 0L);
  curl_easy_setopt(handle, CURLOPT_XFERINFOFUNCTION, on_progress);
  curl_easy_setopt(handle, CURLOPT_XFERINFODATA, &result);
  const CURLcode code = curl_easy_perform(handle);
  curl_slist_free_all(headers);
  if (result.error) std::rethrow_exception(result.error);
  if (code != CURLE_OK)
    throw HttpBroken(fmt::format("{}: {}", url, curl_easy_strerror(code)));
  curl_easy_getinfo(handle, CURLINFO_RESPONSE_CODE, &result.response.status);
  return result;
}

HttpResponse Http::perform(const HttpRequest& request) {
  std::string url = request.url;
  for (int i = 0; i <= kMaxRedirects; ++i) {
    const bool is_own_host = origin(url) == origin(request.url);
    Exchange exchange = curl_->exchange(request, url, is_own_host);
    const HttpResponse& response = exchange.response;
    if (response.status < 300 || response.status >= 400) return response;
    char* next = nullptr;
    curl_easy_getinfo(curl_->handle, CURLINFO_REDIRECT_URL, &next);
    if (next == nullptr) return response;
    const std::string target = next;
    if (!request.follow_other_hosts && origin(target) != origin(request.url))
      return response;
    if (url.starts_with("https:") && !target.starts_with("https:"))
      throw ResourceError(
          fmt::format("{}: redirected from https to {}, refused", request.url, target));
    url = target;
  }
  throw ResourceError(
      fmt::format("{}: more than {} redirects", request.url, kMaxRedirects));
}

}  // namespace optiq::checkpoint
