#include "optiq/server/replying.h"

#include <fmt/format.h>

#include <chrono>
#include <mutex>
#include <optional>
#include <utility>

#include "optiq/base/log.h"
#include "optiq/server/http/sse.h"

namespace optiq::server {
namespace {

using Clock = std::chrono::steady_clock;

ApiError failure(const AnswerEnd& end) {
  if (end.reason == AnswerEnd::Reason::kCancelled)
    return {503, "the server is shutting down"};
  ApiError error(end.may_retry ? 503 : 500, end.error);
  if (end.may_retry) error.retry_after_s = 2;
  return error;
}

bool has_failed(const AnswerEnd& end) {
  return end.reason == AnswerEnd::Reason::kFailed ||
         end.reason == AnswerEnd::Reason::kCancelled;
}

// What both ways of answering share: the handle that cancels, and the end.
class AnswerReply : public AnswerListener, public Reply {
 public:
  AnswerReply(const ApiContext& context, std::shared_ptr<http::Exchange> exchange,
              int n_choices)
      : observe_(context.observe),
        keep_alive_(context.keep_alive),
        exchange_(std::move(exchange)),
        open_(n_choices) {}

  ~AnswerReply() override {
    if (observe_) observe_("e2e_request_latency_seconds", age_s());
  }

  // The request is admitted. Until then a failure is the route's to tell: when one of
  // several choices is refused, the others are cancelled and say so here.
  void attach(std::unique_ptr<Answering> answering) {
    const std::lock_guard lock(mutex_);
    admitted_ = true;
    if (!over_) answering_ = std::move(answering);
    if (early_failure_) fail(*early_failure_);
  }

  void cancel() {
    std::unique_ptr<Answering> answering;  // goes while nothing is locked
    const std::lock_guard lock(mutex_);
    answering = std::move(answering_);
    if (answering) answering->cancel();
  }

 protected:
  // Ends the exchange with an error; mutex_ is held.
  virtual void fail(const ApiError& error) = 0;

  void fail_when_admitted(const AnswerEnd& end) {
    if (admitted_)
      fail(failure(end));
    else
      early_failure_ = failure(end);
  }

  double age_s() const {
    return std::chrono::duration<double>(Clock::now() - begun_at_).count();
  }

  // The first that is heard of any choice.
  void first() {
    if (std::exchange(silent_, false) && observe_)
      observe_("time_to_first_token_seconds", age_s());
  }

  // Copies: an answer may end after the server is gone.
  const std::function<void(const char*, double)> observe_;
  const std::chrono::milliseconds keep_alive_;
  const std::shared_ptr<http::Exchange> exchange_;
  std::mutex mutex_;
  std::unique_ptr<Answering> answering_;
  int open_;           // choices that have not ended
  bool over_ = false;  // the exchange has its end
  bool silent_ = true;
  bool admitted_ = false;
  std::optional<ApiError> early_failure_;
  const Clock::time_point begun_at_ = Clock::now();
};

class StreamReply final : public AnswerReply {
 public:
  StreamReply(const ApiContext& context, std::shared_ptr<http::Exchange> exchange,
              int n_choices, std::unique_ptr<StreamWriter> writer)
      : AnswerReply(context, std::move(exchange), n_choices),
        writer_(std::move(writer)) {}

  // The request is admitted: from here on the status is 200.
  void begin(int prompt_tokens) {
    const std::lock_guard lock(mutex_);
    exchange_->begin_stream(200, "text/event-stream; charset=utf-8");
    begun_ = true;
    write(writer_->begin(prompt_tokens));
    for (const auto& frames : std::exchange(early_, {})) write(frames());
    if (std::exchange(ended_early_, false)) exchange_->end();
  }

  void started(int choice, int cached_tokens) override {
    const std::lock_guard lock(mutex_);
    tell([=, this] { return writer_->started(choice, cached_tokens); });
  }

  void token(int choice, TokenRecord token) override {
    const std::lock_guard lock(mutex_);
    tell([=, this] { return writer_->token(choice, token); });
  }

  void event(int choice, AnswerEvent event) override {
    const std::lock_guard lock(mutex_);
    first();
    tell([=, this] { return writer_->event(choice, event); });
  }

  void ended(int choice, AnswerEnd end) override {
    const std::lock_guard lock(mutex_);
    --open_;
    if (over_) return;
    if (has_failed(end)) return fail_when_admitted(end);
    tell([=, this] { return writer_->ended(choice, end); });
    if (open_ > 0) return;
    tell([this] { return writer_->finish(); });
    finish();
  }

  void cut() override {
    const std::lock_guard lock(mutex_);
    if (!over_) fail(ApiError(503, "the server is shutting down"));
  }

  // False once the stream is over.
  bool keep_alive() {
    const std::lock_guard lock(mutex_);
    if (over_) return false;
    if (begun_ && Clock::now() - written_ >= keep_alive_ / 2)
      write(writer_->keep_alive());
    return !over_;
  }

 private:
  // What the other choices still say would come behind the error.
  void fail(const ApiError& error) override {
    tell([this, error] { return writer_->failed(error); });
    finish();
  }

  // Frames are made in the order in which they go out: those of before the head once it
  // is written, for the first frames show what there is.
  void tell(std::function<std::string()> frames) {
    if (over_) return;
    if (!begun_)
      early_.push_back(std::move(frames));
    else
      write(frames());
  }

  void write(std::string frames) {
    if (frames.empty()) return;
    written_ = Clock::now();
    if (!exchange_->write(std::move(frames))) {
      over_ = true;
      if (answering_) answering_->cancel();
    }
  }

  void finish() {
    over_ = true;
    if (begun_)
      exchange_->end();
    else
      ended_early_ = true;
    if (open_ > 0 && answering_) answering_->cancel();
  }

  const std::unique_ptr<StreamWriter> writer_;
  Clock::time_point written_ = Clock::now();
  bool begun_ = false;
  bool ended_early_ = false;
  std::vector<std::function<std::string()>> early_;  // frames from before the head
};

class WholeReply final : public AnswerReply {
 public:
  WholeReply(const ApiContext& context, std::shared_ptr<http::Exchange> exchange,
             int n_choices,
             std::function<http::Response(std::vector<WholeChoice>)> make,
             std::function<http::Response(const ApiError&)> failed)
      : AnswerReply(context, std::move(exchange), n_choices),
        make_(std::move(make)),
        failed_(std::move(failed)),
        choices_(static_cast<std::size_t>(n_choices)) {}

  void token(int choice, TokenRecord token) override {
    const std::lock_guard lock(mutex_);
    at(choice).tokens.push_back(std::move(token));
  }

  void event(int choice, AnswerEvent event) override {
    const std::lock_guard lock(mutex_);
    first();
    WholeChoice& one = at(choice);
    if (auto* text = std::get_if<TextPiece>(&event)) one.text += text->text;
    if (auto* reasoning = std::get_if<ReasoningPiece>(&event))
      one.reasoning += reasoning->text;
    if (auto* call = std::get_if<ToolCallBegin>(&event))
      one.calls.push_back({std::move(call->id), std::move(call->name), ""});
    if (auto* piece = std::get_if<ToolCallArguments>(&event))
      one.calls.back().arguments += piece->json;
  }

  void ended(int choice, AnswerEnd end) override {
    const std::lock_guard lock(mutex_);
    --open_;
    if (over_) return;
    if (has_failed(end)) return fail_when_admitted(end);
    at(choice).end = std::move(end);
    if (open_ == 0) respond(make_(std::move(choices_)));
  }

  void cut() override {
    const std::lock_guard lock(mutex_);
    if (!over_) fail(ApiError(503, "the server is shutting down"));
  }

 private:
  void fail(const ApiError& error) override { respond(failed_(error)); }

  WholeChoice& at(int choice) { return choices_[static_cast<std::size_t>(choice)]; }

  void respond(http::Response response) {
    over_ = true;
    exchange_->respond(std::move(response));
    if (open_ > 0 && answering_) answering_->cancel();
  }

  const std::function<http::Response(std::vector<WholeChoice>)> make_;
  const std::function<http::Response(const ApiError&)> failed_;
  std::vector<WholeChoice> choices_;
};

// "stop" of "stop: expected ...".
std::string field_of(const std::string& message) {
  const auto colon = message.find(": ");
  const std::string field = message.substr(0, colon);
  const bool named =
      colon != std::string::npos && !field.empty() &&
      field.find_first_not_of("abcdefghijklmnopqrstuvwxyz_.[]0123456789") ==
          std::string::npos;
  return named ? field : "";
}

void follow(const ApiContext& context, const std::shared_ptr<http::Exchange>& exchange,
            const std::shared_ptr<AnswerReply>& reply) {
  if (context.remember) context.remember(reply);
  exchange->on_close([weak = std::weak_ptr<AnswerReply>(reply)] {
    if (const auto alive = weak.lock()) alive->cancel();
  });
}

}  // namespace

void stream_answer(const ApiContext& context, std::shared_ptr<http::Exchange> exchange,
                   const ChatService& service, const ChatRequest& request,
                   std::unique_ptr<StreamWriter> writer) {
  const auto reply =
      std::make_shared<StreamReply>(context, exchange, request.n, std::move(writer));
  auto answering = service.answer(request, reply);
  const int prompt_tokens = answering->prompt_tokens();
  reply->attach(std::move(answering));
  reply->begin(prompt_tokens);
  follow(context, exchange, reply);
  if (context.every_keep_alive)
    context.every_keep_alive([weak = std::weak_ptr<StreamReply>(reply)] {
      const auto alive = weak.lock();
      return alive && alive->keep_alive();
    });
}

void whole_answer(const ApiContext& context, std::shared_ptr<http::Exchange> exchange,
                  const ChatService& service, const ChatRequest& request,
                  std::function<http::Response(std::vector<WholeChoice>)> make,
                  std::function<http::Response(const ApiError&)> failed) {
  const auto reply = std::make_shared<WholeReply>(context, exchange, request.n,
                                                  std::move(make), std::move(failed));
  reply->attach(service.answer(request, reply));
  follow(context, exchange, reply);
}

ApiError told_error(const std::exception& error) {
  if (const auto* known = dynamic_cast<const ApiError*>(&error)) return *known;
  if (dynamic_cast<const generation::EngineBusy*>(&error)) {
    ApiError busy(429, error.what());
    busy.retry_after_s = 1;
    return busy;
  }
  if (const auto* too_long = dynamic_cast<const generation::PromptTooLong*>(&error))
    return {
        400,
        fmt::format("This model's maximum context length is {} tokens. However, your "
                    "prompt has {} tokens. Please reduce its length.",
                    too_long->context_length, too_long->prompt_tokens),
        "messages", "context_length_exceeded"};
  if (const auto* wrong = dynamic_cast<const std::invalid_argument*>(&error))
    return {400, wrong->what(), field_of(wrong->what())};
  log_error("a request failed: {}", error.what());
  return {500, "internal error: the server's log has more"};
}

}  // namespace optiq::server
