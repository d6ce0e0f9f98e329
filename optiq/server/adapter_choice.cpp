#include "optiq/server/adapter_choice.h"

#include <optional>

#include "optiq/server/api_error.h"

namespace optiq::server {
namespace {

constexpr std::size_t kMostStacked = 8;

// The field that chooses, and what it says.
struct Choice {
  const char* field;
  std::string text;
};

std::optional<Choice> choice_in(const Fields& body) {
  for (const char* field : {"adapter", "adapters"}) {
    if (!body.has(field)) continue;
    std::string joined;
    for (const std::string& name : body.text_or_texts(field, kMostStacked))
      joined += (joined.empty() ? "" : "+") + name;
    return Choice{field, joined};
  }
  return std::nullopt;
}

}  // namespace

models::AdapterPtr chosen_adapter(const Fields& body, const ServedModel& model) {
  const std::optional<Choice> choice = choice_in(body);
  const ServedAdapters* adapters = model.adapters.get();
  if (!adapters) {
    if (!choice || models::means_no_adapter(choice->text)) return nullptr;
    body.fail(choice->field, "nothing: the server has no adapters");
  }
  if (choice) {
    try {
      return adapters->find(choice->text);
    } catch (const std::invalid_argument& error) {
      throw ApiError(400, std::string(choice->field) + ": " + error.what(),
                     choice->field, "adapter_not_found");
    }
  }
  try {
    const std::string name = body.text("model").value_or("");
    return adapters->find(adapters->has(name) ? name : adapters->default_id());
  } catch (const std::invalid_argument&) {  // unmounted since it was found
    throw ApiError(404, "the adapter was unmounted just now", "model",
                   "model_not_found");
  }
}

}  // namespace optiq::server
