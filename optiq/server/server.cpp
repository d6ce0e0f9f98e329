#include "optiq/server/server.h"

#include <fmt/format.h>

#include <atomic>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <thread>

#include "optiq/base/log.h"
#include "optiq/server/adapters_route.h"
#include "optiq/server/anthropic/anthropic.h"
#include "optiq/server/http/gate.h"
#include "optiq/server/metrics.h"
#include "optiq/server/model_table.h"
#include "optiq/server/models_route.h"
#include "optiq/server/openai/openai.h"
#include "optiq/server/page/page.h"
#include "optiq/server/replying.h"
#include "optiq/server/router.h"
#include "optiq/server/status.h"
#include "optiq/server/ticker.h"

namespace optiq::server {
namespace {

// How often the open requests are looked at while the server drains.
constexpr std::chrono::milliseconds kLook{20};

// That errors have to reach the clients that were cut.
constexpr std::chrono::milliseconds kLastWords{500};

bool is_anthropic(const std::string& path) { return path.starts_with("/v1/messages"); }

// Each API has an envelope of its own.
http::Response error_response(const ApiError& error, const std::string& path,
                              const std::string& request_id) {
  http::Response response = is_anthropic(path)
                                ? anthropic::error_response(error, request_id)
                                : openai::error_response(error, request_id);
  if (const auto* method = dynamic_cast<const MethodNotAllowed*>(&error))
    response.headers.emplace_back("Allow", method->allowed);
  return response;
}

}  // namespace

class Server::Impl {
 public:
  Impl(ServedModel model, ServerOptions options)
      : options_(std::move(options)),
        engine_(model.engine),
        models_(std::move(model), options_.aliases),
        gate_({.api_keys = options_.api_keys,
               .hosts = options_.hosts,
               .origins = options_.origins}),
        ticker_(options_.keep_alive),
        context_{
            .models = &models_,
            .defaults = options_.defaults,
            .keep_alive = options_.keep_alive,
            .every_keep_alive = [this](auto tick) { ticker_.add(std::move(tick)); },
            .remember = [this](auto reply) { remember(std::move(reply)); },
            .observe = [metrics = metrics_](
                           const char* histogram,
                           double seconds) { metrics->observe(histogram, seconds); }},
        router_(routes()),
        http_(http_options(), [this](auto exchange) { answer(std::move(exchange)); }) {}

  void start() { http_.start(); }
  int port() const { return http_.port(); }

  bool drain(std::chrono::milliseconds limit) {
    draining_ = true;
    const auto until = std::chrono::steady_clock::now() + limit;
    // New connections are still taken, to be told; so the open ones are watched.
    while (http_.status().open_exchanges > 0 &&
           std::chrono::steady_clock::now() < until)
      std::this_thread::sleep_for(kLook);
    const bool whole = http_.status().open_exchanges == 0;
    cut_replies();
    http_.drain(kLastWords);
    return whole;
  }

  void stop() {
    draining_ = true;
    http_.stop();
  }

 private:
  void remember(std::weak_ptr<Reply> reply) {
    const std::lock_guard lock(mutex_);
    if (replies_.size() >= 2 * living_) {
      std::erase_if(replies_, [](const auto& weak) { return weak.expired(); });
      living_ = std::max<std::size_t>(replies_.size(), 64);
    }
    replies_.push_back(std::move(reply));
  }

  void cut_replies() {
    std::vector<std::weak_ptr<Reply>> replies;
    {
      const std::lock_guard lock(mutex_);
      replies.swap(replies_);
    }
    for (const auto& weak : replies)
      if (const auto reply = weak.lock()) reply->cut();
  }

  http::HttpOptions http_options() const {
    http::HttpOptions http = options_.http;
    http.error_response = [](int status, const std::string& message,
                             const std::string& path) {
      return error_response(ApiError(status, message), path, "");
    };
    return http;
  }

  RouteFunction api(void (*route)(const ApiContext&, std::shared_ptr<http::Exchange>)) {
    return [this, route](std::shared_ptr<http::Exchange> exchange) {
      if (draining_) {
        ApiError error(503, "the server is shutting down");
        error.retry_after_s = 1;
        throw error;
      }
      route(context_, std::move(exchange));
    };
  }

  template <class Make>
  static RouteFunction whole(Make make) {
    return [make](std::shared_ptr<http::Exchange> exchange) {
      exchange->respond(make(exchange->request()));
    };
  }

  const ServedModel& model() const { return models_.find("")->model(); }

  std::vector<RouteEntry> routes() {
    std::vector<RouteEntry> rows;
    // Clients differ in whether their base URL has the /v1.
    for (const std::string prefix : {"/v1", ""}) {
      rows.push_back(
          {"POST", prefix + "/chat/completions", api(openai::chat_completions)});
      rows.push_back({"POST", prefix + "/completions", api(openai::completions)});
      rows.push_back({"POST", prefix + "/responses", api(openai::responses)});
      rows.push_back({"POST", prefix + "/embeddings", api(openai::embeddings)});
      rows.push_back({"GET", prefix + "/models",
                      whole([this](const auto&) { return list_models(models_); })});
    }
    rows.push_back({"GET", "/v1/models/*", whole([this](const http::Request& request) {
                      return show_model(models_,
                                        request.path.substr(sizeof "/v1/models"));
                    })});
    rows.push_back({"GET", "/v1/adapters",
                    whole([this](const auto&) { return list_adapters(model()); })});
    if (options_.adapter_admin && model().adapters) {
      rows.push_back({"POST", "/v1/adapters", whole([this](const auto& request) {
                        return mount_adapter(model(), request);
                      })});
      rows.push_back(
          {"DELETE", "/v1/adapters/*", whole([this](const http::Request& request) {
             return unmount_adapter(model(),
                                    request.path.substr(sizeof "/v1/adapters"));
           })});
    }
    if (options_.anthropic) {
      rows.push_back({"POST", "/v1/messages", api(anthropic::messages)});
      rows.push_back(
          {"POST", "/v1/messages/count_tokens", api(anthropic::count_tokens)});
    }
    rows.push_back({"GET", "/health", whole([this](const auto&) {
                      return health(engine_->status(), options_.stuck_after, draining_);
                    })});
    rows.push_back({"GET", "/metrics", whole([this](const auto&) {
                      return http::Response{
                          .content_type = "text/plain; version=0.0.4; charset=utf-8",
                          .body = metrics_->text(engine_->status(), http_.status())};
                    })});
    rows.push_back({"GET", "/status", whole([this](const auto&) {
                      return live_status(engine_->status(), http_.status());
                    })});
    rows.push_back({"GET", "/model.json", whole([this](const auto&) {
                      return http::Response{.body = options_.model_page};
                    })});
    for (const PageFile& file : page_files())
      rows.push_back({"GET", file.path, whole([&file](const http::Request& request) {
                        return page_response(file, request);
                      })});
    return rows;
  }

  void answer(std::shared_ptr<http::Exchange> exchange) {
    const http::Request& request = exchange->request();
    try {
      const RouteEntry& route = router_.find(request);
      const auto refusal = gate_.refusal(request);
      // Without a key: the page, which asks for one, and what watches over the server.
      const bool open = request.path == "/" || request.path == "/health" ||
                        request.path.starts_with("/page/");
      if (refusal && !(refusal->status == 401 && open)) throw ApiError(*refusal);
      route.answer(exchange);
    } catch (const std::exception& error) {
      const ApiError told = told_error(error);
      metrics_->count_http_error(told.status);
      if (const auto* method = dynamic_cast<const MethodNotAllowed*>(&error))
        exchange->respond(error_response(*method, request.path, request.id));
      else
        exchange->respond(error_response(told, request.path, request.id));
    }
  }

  const ServerOptions options_;
  const std::shared_ptr<generation::Engine> engine_;
  const ModelTable models_;
  const http::Gate gate_;
  const std::shared_ptr<Metrics> metrics_ = std::make_shared<Metrics>();
  std::atomic<bool> draining_ = false;
  std::mutex mutex_;
  std::vector<std::weak_ptr<Reply>> replies_;
  std::size_t living_ = 64;  // of them, when they were last looked through
  Ticker ticker_;
  const ApiContext context_;
  const Router router_;
  http::HttpServer http_;  // goes first: its threads use all the others
};

Server::Server(ServedModel model, ServerOptions options)
    : impl_(std::make_unique<Impl>(std::move(model), std::move(options))) {}

Server::~Server() = default;

void Server::start() { impl_->start(); }
int Server::port() const { return impl_->port(); }
bool Server::drain(std::chrono::milliseconds limit) { return impl_->drain(limit); }
void Server::stop() { impl_->stop(); }

}  // namespace optiq::server
