// Guesses of a small model.
#pragma once
#include "optiq/generate/draft/draft.h"
#include "optiq/generate/session.h"

namespace optiq::generation {

/// What the small model finds likeliest, as long as it is rather sure.
///
/// Cost      a step of the small model for each guess, and its reading of the prompt.
class ModelDraft final : public Draft {
 public:
  ModelDraft(std::shared_ptr<LoadedModel> model, int most,
             kernels::Activation activation);

  /// Throws    ResourceError if there is no room for its cache
  std::vector<int> propose(std::span<const int> tokens, int most) override;

 private:
  mx::array read(std::span<const int> tokens);

  std::shared_ptr<LoadedModel> model_;
  Session session_;
  int most_;
  int read_ = 0;  // length without guesses, to which a recurrent model can go back
};

}  // namespace optiq::generation
