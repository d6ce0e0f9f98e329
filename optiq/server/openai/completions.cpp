#include <fmt/format.h>

#include <atomic>
#include <mutex>
#include <random>

#include "optiq/server/adapter_choice.h"
#include "optiq/server/http/sse.h"
#include "optiq/server/openai/openai.h"
#include "optiq/server/openai/read_chat.h"
#include "optiq/server/openai/wire.h"

namespace optiq::server::openai {
namespace {

constexpr std::size_t kMostPrompts = 128;

// A text, texts, token ids, or lists of them.
std::vector<std::vector<int>> read_prompts(const Fields& body,
                                           const ServedModel& model) {
  const auto encode = [&](const std::string& text) {
    auto ids = model.tokenizer->encode(text, {.add_special_tokens = true});
    if (ids.empty()) body.fail("prompt", "text");
    return ids;
  };
  const auto ids_of = [&](const Json& list) {
    std::vector<int> ids;
    for (const Json& id : list) {
      if (!id.is_number_integer()) body.fail("prompt", "texts or lists of token ids");
      ids.push_back(id.get<int>());
    }
    return ids;
  };
  const Json& prompt = body.require("prompt");
  if (prompt.is_string()) return {encode(prompt.get<std::string>())};
  const Json* list = body.array("prompt", 1'000'000);
  if (list->empty()) body.fail("prompt", "a prompt");
  if (list->front().is_number_integer()) return {ids_of(*list)};
  if (list->size() > kMostPrompts)
    body.fail("prompt", fmt::format("at most {} prompts", kMostPrompts));
  std::vector<std::vector<int>> prompts;
  for (const Json& one : *list) {
    if (!one.is_string() && !one.is_array())
      body.fail("prompt", "texts or lists of token ids");
    prompts.push_back(one.is_string() ? encode(one.get<std::string>()) : ids_of(one));
  }
  return prompts;
}

struct CompletionOptions {
  std::string model;
  bool echo = false;
  bool stream = false;
  bool include_usage = false;
  int log_probs = -1;
  int n = 1;
};

// All choices of one request; each is a request of the engine's.
class Completion : public Reply, public std::enable_shared_from_this<Completion> {
 public:
  Completion(std::shared_ptr<http::Exchange> exchange, const ServedModel& model,
             CompletionOptions options, std::size_t n_choices)
      : exchange_(std::move(exchange)),
        model_(model),
        options_(std::move(options)),
        choices_(n_choices) {}

  class Listener final : public generation::EngineListener {
   public:
    Listener(std::shared_ptr<Completion> all, std::size_t index)
        : all_(std::move(all)), index_(index) {}
    void token(generation::EngineToken token) override { all_->token(index_, token); }
    void finished(generation::EngineResult result) override {
      all_->finished(index_, std::move(result));
      all_.reset();
    }

   private:
    std::shared_ptr<Completion> all_;
    const std::size_t index_;
  };

  void begin() {
    const std::lock_guard lock(mutex_);
    begun_ = true;
    if (!options_.stream) return;
    exchange_->begin_stream(200, "text/event-stream; charset=utf-8");
    exchange_->write(std::exchange(early_, {}));
    if (over_) exchange_->end();
  }

  void queued(std::uint64_t id) {
    const std::lock_guard lock(mutex_);
    ids_.push_back(id);
  }

  void prompt_text(std::size_t index, std::string text) {
    const std::lock_guard lock(mutex_);
    if (options_.echo) say(index, std::move(text), nullptr);
  }

  void cancel() {
    std::vector<std::uint64_t> ids;
    {
      const std::lock_guard lock(mutex_);
      ids = ids_;
    }
    for (const std::uint64_t id : ids) model_.engine->cancel(id);
  }

  // The request is refused: somebody else says so.
  void abandon() {
    {
      const std::lock_guard lock(mutex_);
      over_ = true;
    }
    cancel();
  }

  void cut() override {
    {
      const std::lock_guard lock(mutex_);
      fail(ApiError(503, "the server is shutting down"));
    }
    cancel();
  }

  bool keep_alive() {
    const std::lock_guard lock(mutex_);
    if (over_) return false;
    if (begun_) exchange_->write(http::sse_comment("keep-alive"));
    return true;
  }

 private:
  struct Choice {
    std::string text;
    std::vector<generation::EngineToken> tokens;
    std::vector<int> offsets;
    std::string finish_reason;
    generation::EngineUse use;
  };

  void token(std::size_t index, generation::EngineToken& token) {
    const std::lock_guard lock(mutex_);
    if (over_) return;
    Choice& choice = choices_[index];
    std::string text = token.text;
    if (options_.log_probs >= 0) {
      choice.offsets.push_back(static_cast<int>(choice.text.size()));
      choice.tokens.push_back(std::move(token));
    }
    say(index, std::move(text), nullptr);
  }

  void finished(std::size_t index, generation::EngineResult result) {
    const std::lock_guard lock(mutex_);
    ++ended_;
    if (over_) return;
    using generation::EngineFinish;
    if (result.finish == EngineFinish::kFailed) {
      ApiError error(result.out_of_memory ? 503 : 500, result.error);
      if (result.out_of_memory) error.retry_after_s = 2;
      return fail(error);
    }
    if (result.finish == EngineFinish::kCancelled)
      return fail(ApiError(503, "the server is shutting down"));
    Choice& choice = choices_[index];
    choice.use = result.use;
    const bool length = result.finish == EngineFinish::kLength ||
                        result.finish == EngineFinish::kContextFull;
    choice.finish_reason = length ? "length" : "stop";
    say(index, result.rest, choice.finish_reason.c_str());
    if (ended_ == choices_.size()) finish();
  }

  void say(std::size_t index, std::string text, const char* reason) {
    Choice& choice = choices_[index];
    choice.text += text;
    if (!options_.stream) return;
    if (text.empty() && !reason && choice.tokens.empty()) return;
    Json one;
    one["index"] = index;
    one["text"] = std::move(text);
    one["logprobs"] = log_probs(choice);
    choice.tokens.clear();
    choice.offsets.clear();
    one["finish_reason"] = reason ? Json(reason) : Json(nullptr);
    Json json = envelope();
    json["choices"] = Json::array({std::move(one)});
    if (options_.include_usage) json["usage"] = nullptr;
    write(http::sse_data(json.dump(-1, ' ', false, Json::error_handler_t::replace)));
  }

  void write(std::string frames) {
    if (!begun_)
      early_ += frames;
    else if (!exchange_->write(std::move(frames)))
      for (const std::uint64_t id : ids_) model_.engine->cancel(id);
  }

  void finish() {
    over_ = true;
    std::vector<AnswerUse> uses;
    for (const Choice& choice : choices_)
      uses.push_back({choice.use.prompt_tokens, choice.use.cached_tokens,
                      choice.use.completion_tokens, 0});
    // Each prompt of a list counts.
    AnswerUse sum;
    for (std::size_t i = 0; i < uses.size(); ++i) {
      if (i % static_cast<std::size_t>(options_.n) == 0) {
        sum.prompt_tokens += uses[i].prompt_tokens;
        sum.cached_tokens += uses[i].cached_tokens;
      }
      sum.completion_tokens += uses[i].completion_tokens;
    }
    Json json = envelope();
    json["choices"] = Json::array();
    if (options_.stream) {
      std::string frames;
      if (options_.include_usage) {
        json["usage"] = usage(sum);
        frames = http::sse_data(json.dump());
      }
      write(frames + http::sse_data("[DONE]"));
      if (begun_) exchange_->end();
      return;
    }
    for (std::size_t i = 0; i < choices_.size(); ++i) {
      Json one;
      one["index"] = i;
      one["text"] = std::move(choices_[i].text);
      one["logprobs"] = log_probs(choices_[i]);
      one["finish_reason"] = choices_[i].finish_reason;
      json["choices"].push_back(std::move(one));
    }
    json["usage"] = usage(sum);
    exchange_->respond(
        {.body = json.dump(-1, ' ', false, Json::error_handler_t::replace)});
  }

  void fail(const ApiError& error) {
    if (over_) return;
    over_ = true;
    if (!options_.stream) {
      exchange_->respond(error_response(error, exchange_->request().id));
      return;
    }
    write(http::sse_data(error_response(error, "").body));
    if (begun_) exchange_->end();
  }

  Json envelope() const {
    Json json;
    json["id"] = id_;
    json["object"] = "text_completion";
    json["created"] = created_;
    json["model"] = options_.model;
    return json;
  }

  std::string token_text(int id) const {
    try {
      return model_.tokenizer->token_bytes(id);
    } catch (const std::invalid_argument&) {
      return "";
    }
  }

  Json log_probs(const Choice& choice) const {
    if (options_.log_probs < 0) return nullptr;
    Json json;
    for (const char* name : {"tokens", "token_logprobs", "top_logprobs", "text_offset"})
      json[name] = Json::array();
    for (std::size_t i = 0; i < choice.tokens.size(); ++i) {
      const auto& token = choice.tokens[i];
      json["tokens"].push_back(token_text(token.id));
      json["token_logprobs"].push_back(token.log_prob);
      Json top = Json::object();
      for (const auto& one : token.likeliest) top[token_text(one.id)] = one.log_prob;
      json["top_logprobs"].push_back(std::move(top));
      json["text_offset"].push_back(choice.offsets[i]);
    }
    return json;
  }

  const std::shared_ptr<http::Exchange> exchange_;
  const ServedModel& model_;
  const CompletionOptions options_;
  const std::string id_ = new_id("cmpl-");
  const std::int64_t created_ = unix_time_s();
  std::mutex mutex_;
  std::vector<Choice> choices_;
  std::vector<std::uint64_t> ids_;
  std::size_t ended_ = 0;
  bool begun_ = false;
  bool over_ = false;
  std::string early_;
};

}  // namespace

void completions(const ApiContext& context, std::shared_ptr<http::Exchange> exchange) {
  const Json json = parse_body(exchange->request().body);
  const Fields body(json, "");
  const ChatService& service = find_model(context, body);
  const ServedModel& model = service.model();
  ApiDefaults defaults = context.defaults;
  defaults.max_tokens = std::min(defaults.max_tokens, 16);  // as OpenAI's own default
  ChatRequest request;
  read_sampling(body, defaults, request);
  request.adapter = chosen_adapter(body, model);
  if (body.has("suffix") && body.text("suffix") != "")
    body.fail("suffix", "nothing: text cannot be inserted");
  CompletionOptions options;
  options.model = body.required_text("model");
  options.echo = body.boolean("echo").value_or(false);
  options.stream = body.boolean("stream").value_or(false);
  if (const auto stream = body.object("stream_options"))
    options.include_usage = stream->boolean("include_usage").value_or(false);
  options.log_probs = static_cast<int>(body.integer("logprobs", 0, 20).value_or(-1));
  options.n = request.n;
  const auto prompts = read_prompts(body, model);
  const auto completion = std::make_shared<Completion>(
      exchange, model, options, prompts.size() * static_cast<std::size_t>(request.n));
  const std::uint64_t seed = request.seed ? *request.seed : std::random_device{}();
  try {
    std::size_t index = 0;
    for (const auto& prompt : prompts)
      for (int k = 0; k < request.n; ++k, ++index) {
        completion->prompt_text(index, model.tokenizer->decode(prompt));
        generation::EngineRequest one;
        one.prompt = prompt;
        one.max_tokens = *request.max_tokens;
        one.sampling = request.sampling;
        one.seed = seed + index;
        one.stop_ids = {request.stop_ids.begin(), request.stop_ids.end()};
        one.stop_strings = request.stop_strings;
        one.ignore_eos = request.ignore_eos;
        one.log_probs = options.log_probs;
        one.salt = request.cache_salt;
        one.adapter = request.adapter;
        completion->queued(model.engine->submit(
            std::move(one), std::make_shared<Completion::Listener>(completion, index)));
      }
  } catch (...) {
    completion->abandon();
    throw;
  }
  completion->begin();
  if (context.remember) context.remember(completion);
  exchange->on_close([weak = std::weak_ptr<Completion>(completion)] {
    if (const auto alive = weak.lock()) alive->cancel();
  });
  if (options.stream && context.every_keep_alive)
    context.every_keep_alive([weak = std::weak_ptr<Completion>(completion)] {
      const auto alive = weak.lock();
      return alive && alive->keep_alive();
    });
}

}  // namespace optiq::server::openai
