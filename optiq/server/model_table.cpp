#include "optiq/server/model_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

namespace optiq::server {

bool matches_pattern(std::string_view pattern, std::string_view text) {
  // The last '*' met takes one character more whenever what follows it does not fit.
  std::size_t p = 0, t = 0, star = std::string_view::npos, taken = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      taken = t;
    } else if (p < pattern.size() && pattern[p] == text[t]) {
      ++p;
      ++t;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      t = ++taken;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

ModelTable::ModelTable(ServedModel model, std::vector<Alias> aliases)
    : service_(std::move(model)), aliases_(std::move(aliases)) {
  for (const Alias& alias : aliases_) {
    if (alias.pattern.empty())
      throw std::invalid_argument("an alias needs a name, as in NAME=MODEL");
    if (alias.model != service_.model().id)
      throw std::invalid_argument(
          fmt::format("alias \"{}\": expected the name of a model that is served "
                      "(\"{}\"), found \"{}\"",
                      alias.pattern, service_.model().id, alias.model));
  }
}

const ChatService* ModelTable::find(const std::string& name) const {
  if (name.empty() || name == service_.model().id) return &service_;
  const ServedAdapters* adapters = service_.model().adapters.get();
  if (adapters && adapters->has(name)) return &service_;
  const bool known = std::any_of(
      aliases_.begin(), aliases_.end(),
      [&](const Alias& alias) { return matches_pattern(alias.pattern, name); });
  return known ? &service_ : nullptr;
}

std::vector<ModelNames::Entry> ModelTable::list() const {
  const ServedModel& model = service_.model();
  const int context_length = model.engine->context_length();
  std::vector<Entry> entries{{model.id, model.created_s, context_length}};
  for (const Alias& alias : aliases_)
    // A pattern is no name that a client could ask for.
    if (alias.pattern.find('*') == std::string::npos)
      entries.push_back({alias.pattern, model.created_s, context_length});
  if (model.adapters)
    for (const auto& adapter : model.adapters->list())
      entries.push_back({adapter.id, adapter.created_s, context_length, model.id});
  return entries;
}

}  // namespace optiq::server
