#include "optiq/server/http/exchange.h"

#include <fmt/format.h>

#include <iterator>

namespace optiq::server::http {
namespace {

std::string head(int status, const std::string& content_type, const Headers& headers,
                 const std::string& request_id, const Framing& framing,
                 const std::string& length) {
  std::string text =
      fmt::format("HTTP/1.1 {} {}\r\nServer: optiq\r\n", status, reason(status));
  const auto out = std::back_inserter(text);
  if (!request_id.empty())
    fmt::format_to(out, "request-id: {0}\r\nx-request-id: {0}\r\n", request_id);
  if (!content_type.empty()) fmt::format_to(out, "Content-Type: {}\r\n", content_type);
  for (const auto& [name, value] : headers)
    fmt::format_to(out, "{}: {}\r\n", name, value);
  fmt::format_to(out, "{}Connection: {}\r\n\r\n", length,
                 framing.keep_alive ? "keep-alive" : "close");
  return text;
}

class ChannelExchange final : public Exchange {
 public:
  ChannelExchange(Request request, Framing framing, std::shared_ptr<Channel> channel,
                  std::function<Response()> unanswered)
      : request_(std::move(request)),
        framing_(framing),
        channel_(std::move(channel)),
        unanswered_(std::move(unanswered)) {}

  ~ChannelExchange() override {
    if (!begun_)
      respond(unanswered_());
    else
      channel_->cut();  // nothing if it has ended
  }

  const Request& request() const override { return request_; }

  void respond(Response response) override {
    if (begun_) return;
    begun_ = true;
    channel_->set_status(response.status);
    channel_->push(whole_answer(response, request_.id, framing_));
    channel_->end();
  }

  void begin_stream(int status, std::string content_type, Headers headers) override {
    if (begun_) return;
    begun_ = true;
    channel_->set_status(status);
    // Not "no-store": Chromium reports such a stream as aborted although it read it
    // whole.
    headers.emplace_back("Cache-Control", "no-cache");
    headers.emplace_back("X-Accel-Buffering", "no");
    channel_->push(head(status, content_type, headers, request_.id, framing_,
                        framing_.http_1_0 ? "" : "Transfer-Encoding: chunked\r\n"));
  }

  bool write(std::string piece) override {
    if (piece.empty() || framing_.head_only) return !channel_->closed();
    return channel_->push(framing_.http_1_0
                              ? std::move(piece)
                              : fmt::format("{:x}\r\n{}\r\n", piece.size(), piece));
  }

  void end() override {
    if (!framing_.http_1_0 && !framing_.head_only) channel_->push("0\r\n\r\n");
    channel_->end();
  }

  bool closed() const override { return channel_->closed(); }

  void on_close(std::function<void()> callback) override {
    channel_->on_close(std::move(callback));
  }

 private:
  const Request request_;
  const Framing framing_;
  const std::shared_ptr<Channel> channel_;
  const std::function<Response()> unanswered_;
  bool begun_ = false;
};

}  // namespace

std::string_view Request::header(std::string_view lower_case_name) const {
  for (const auto& [name, value] : headers)
    if (name == lower_case_name) return value;
  return {};
}

const char* reason(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 204:
      return "No Content";
    case 304:
      return "Not Modified";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 409:
      return "Conflict";
    case 413:
      return "Content Too Large";
    case 414:
      return "URI Too Long";
    case 415:
      return "Unsupported Media Type";
    case 422:
      return "Unprocessable Content";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 500:
      return "Internal Server Error";
    case 501:
      return "Not Implemented";
    case 503:
      return "Service Unavailable";
    case 504:
      return "Gateway Timeout";
    case 505:
      return "HTTP Version Not Supported";
    case 529:
      return "Overloaded";
    default:
      return "Status";
  }
}

std::string whole_answer(const Response& response, const std::string& request_id,
                         const Framing& framing) {
  const bool bodiless = response.status == 204 || response.status == 304;
  std::string text =
      head(response.status, bodiless ? "" : response.content_type, response.headers,
           request_id, framing,
           bodiless ? "" : fmt::format("Content-Length: {}\r\n", response.body.size()));
  if (!bodiless && !framing.head_only) text += response.body;
  return text;
}

std::shared_ptr<Exchange> make_exchange(Request request, Framing framing,
                                        std::shared_ptr<Channel> channel,
                                        std::function<Response()> unanswered) {
  return std::make_shared<ChannelExchange>(std::move(request), framing,
                                           std::move(channel), std::move(unanswered));
}

}  // namespace optiq::server::http
