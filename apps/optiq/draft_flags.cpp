#include "draft_flags.h"

namespace optiq::app {

void add_draft_flags(CLI::App& app, DraftFlags& flags) {
  app.add_option(
         "--draft-model", flags.model,
         "A small model with the same tokens, whose guesses are checked several "
         "at a time: the answer stays the same, token for token")
      ->type_name("MODEL");
  app.add_option("--num-draft-tokens", flags.model_tokens,
                 "Tokens that it guesses at most")
      ->check(CLI::Range(1, generation::kStepRows - 1).description(""))
      ->type_name("N")
      ->capture_default_str();
  app.add_option("--ngram-draft", flags.ngram_tokens,
                 "Guess up to N tokens by what followed the same words earlier in the "
                 "text; 0: do not")
      ->check(CLI::Range(0, generation::kStepRows - 1).description(""))
      ->type_name("N")
      ->capture_default_str();
  app.add_option("--ngram-min", flags.ngram_min, "Tokens that must agree before that")
      ->check(CLI::Range(1, 64).description(""))
      ->type_name("N")
      ->capture_default_str();
}

generation::DraftOptions draft_options_of(const DraftFlags& flags) {
  return {.ngram_tokens = flags.ngram_tokens,
          .ngram_min = flags.ngram_min,
          .model_tokens = flags.model_tokens};
}

generation::DraftOptions load_draft(const DraftFlags& flags, const LoadedModel& model) {
  generation::DraftOptions options = draft_options_of(flags);
  if (flags.model.empty()) return options;
  options.model = std::make_shared<LoadedModel>(load(flags.model));
  generation::check_draft_model(model, *options.model);
  return options;
}

}  // namespace optiq::app
