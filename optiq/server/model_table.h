// The names that requests may give as their model.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "optiq/server/api.h"
#include "optiq/server/server.h"

namespace optiq::server {

/// True if `text` is the pattern, in which each '*' stands for any text.
bool matches_pattern(std::string_view pattern, std::string_view text);

class ModelTable final : public ModelNames {
 public:
  /// Throws    std::invalid_argument for an alias of a model that there is not
  ModelTable(ServedModel model, std::vector<Alias> aliases);

  const ChatService* find(const std::string& name) const override;
  std::vector<Entry> list() const override;

 private:
  ChatService service_;
  std::vector<Alias> aliases_;
};

}  // namespace optiq::server
