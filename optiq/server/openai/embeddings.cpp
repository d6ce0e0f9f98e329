#include <fmt/format.h>

#include <atomic>
#include <cmath>
#include <cstring>

#include "optiq/server/openai/openai.h"
#include "optiq/server/openai/wire.h"

namespace optiq::server::openai {
namespace {

constexpr std::size_t kMostInputs = 2048;

std::vector<int> ids_of(const Json& list, const Fields& body) {
  std::vector<int> ids;
  for (const Json& id : list) {
    if (!id.is_number_integer()) body.fail("input", "texts or lists of token ids");
    ids.push_back(id.get<int>());
  }
  return ids;
}

// A text, texts, token ids, or lists of them.
std::vector<std::vector<int>> read_inputs(const Fields& body,
                                          const ServedModel& model) {
  const auto encode = [&](const Json& text) {
    return model.tokenizer->encode(text.get_ref<const std::string&>(),
                                   {.add_special_tokens = true});
  };
  const Json& input = body.require("input");
  std::vector<std::vector<int>> inputs;
  if (input.is_string()) {
    inputs.push_back(encode(input));
  } else {
    const Json* list = body.array("input", 1'000'000);
    if (!list->empty() && list->front().is_number_integer()) {
      inputs.push_back(ids_of(*list, body));
    } else {
      if (list->size() > kMostInputs)
        body.fail("input", fmt::format("at most {} inputs", kMostInputs));
      for (const Json& one : *list) {
        if (!one.is_string() && !one.is_array())
          body.fail("input", "texts or lists of token ids");
        inputs.push_back(one.is_string() ? encode(one) : ids_of(one, body));
      }
    }
  }
  if (inputs.empty()) body.fail("input", "at least one input");
  for (const auto& ids : inputs)
    if (ids.empty()) body.fail("input", "inputs that are not empty");
  return inputs;
}

std::string base64(const std::vector<float>& vector) {
  constexpr char kDigits[] =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::vector<unsigned char> bytes(vector.size() * sizeof(float));
  if (!bytes.empty()) std::memcpy(bytes.data(), vector.data(), bytes.size());
  std::string text;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    const std::size_t n = std::min<std::size_t>(3, bytes.size() - i);
    unsigned word = static_cast<unsigned>(bytes[i]) << 16;
    if (n > 1) word |= static_cast<unsigned>(bytes[i + 1]) << 8;
    if (n > 2) word |= bytes[i + 2];
    for (std::size_t k = 0; k < 4; ++k)
      text += k <= n ? kDigits[word >> (18 - 6 * k) & 63] : '=';
  }
  return text;
}

// The first values alone, of length one again.
void shorten(std::vector<float>& vector, std::size_t dimensions) {
  vector.resize(std::min(vector.size(), dimensions));
  double squares = 0;
  for (const float x : vector)
    squares += static_cast<double>(x) * static_cast<double>(x);
  if (squares > 0)
    for (float& x : vector) x = static_cast<float>(x / std::sqrt(squares));
}

// One input after the other, so that a long list leaves room in the queue for others.
class Collected : public std::enable_shared_from_this<Collected> {
 public:
  Collected(std::shared_ptr<http::Exchange> exchange,
            std::shared_ptr<generation::Engine> engine,
            std::vector<std::vector<int>> inputs, std::string model, bool as_base64,
            std::optional<std::int64_t> dimensions)
      : exchange_(std::move(exchange)),
        engine_(std::move(engine)),
        inputs_(std::move(inputs)),
        model_(std::move(model)),
        as_base64_(as_base64),
        dimensions_(dimensions) {}

  /// Throws    as Engine::embed() for the first input
  void next() {
    const auto& input = inputs_[vectors_.size()];
    tokens_ += static_cast<int>(input.size());
    asked_ = engine_->embed(input, [self = shared_from_this()](
                                       std::vector<float> vector, std::string error) {
      self->take(std::move(vector), std::move(error));
    });
  }

  void cancel() { engine_->cancel(asked_); }

 private:
  void take(std::vector<float> vector, std::string error) {
    if (exchange_->closed()) return;
    try {
      if (!error.empty()) throw ApiError(500, error);
      if (dimensions_) shorten(vector, static_cast<std::size_t>(*dimensions_));
      vectors_.push_back(std::move(vector));
      if (vectors_.size() < inputs_.size())
        next();
      else
        exchange_->respond(body());
    } catch (const std::exception& wrong) {
      exchange_->respond(error_response(told_error(wrong), exchange_->request().id));
    }
  }

  http::Response body() const {
    Json json;
    json["object"] = "list";
    json["data"] = Json::array();
    for (std::size_t i = 0; i < vectors_.size(); ++i) {
      Json one;
      one["object"] = "embedding";
      one["index"] = i;
      one["embedding"] = as_base64_ ? Json(base64(vectors_[i])) : Json(vectors_[i]);
      json["data"].push_back(std::move(one));
    }
    json["model"] = model_;
    json["usage"]["prompt_tokens"] = tokens_;
    json["usage"]["total_tokens"] = tokens_;
    return {.body = json.dump()};
  }

  const std::shared_ptr<http::Exchange> exchange_;
  const std::shared_ptr<generation::Engine> engine_;
  const std::vector<std::vector<int>> inputs_;
  std::vector<std::vector<float>> vectors_;
  const std::string model_;
  const bool as_base64_;
  const std::optional<std::int64_t> dimensions_;
  int tokens_ = 0;
  std::atomic<std::uint64_t> asked_ = 0;
};

}  // namespace

void embeddings(const ApiContext& context, std::shared_ptr<http::Exchange> exchange) {
  const Json json = parse_body(exchange->request().body);
  const Fields body(json, "");
  const ChatService& service = find_model(context, body);
  const std::string form = body.text("encoding_format").value_or("float");
  if (form != "float" && form != "base64")
    body.fail("encoding_format", "\"float\" or \"base64\"");
  const auto dimensions = body.integer("dimensions", 1, 1'000'000);
  const auto collected = std::make_shared<Collected>(
      exchange, service.model().engine, read_inputs(body, service.model()),
      body.required_text("model"), form == "base64", dimensions);
  collected->next();
  exchange->on_close([weak = std::weak_ptr<Collected>(collected)] {
    if (const auto alive = weak.lock()) alive->cancel();
  });
}

}  // namespace optiq::server::openai
