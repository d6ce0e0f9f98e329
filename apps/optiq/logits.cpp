#include <memory>

#include "command.h"
#include "mlx/array.h"
#include "optiq/base/memory.h"
#include "optiq/base/progress.h"
#include "optiq/generate/generate.h"
#include "request_options.h"
#include "rows_file.h"

namespace optiq::app {
namespace {

struct Options {
  std::string model;
  std::string input_ids;
  std::string output;
  bool exact = false;
  CacheFlags cache;
  AdapterFlag adapters;
};

void logits(const Options& options, Context& context) {
  const std::vector<int> ids = read_ids(options.input_ids);
  Request request;
  request.prompt = ids;
  request.max_tokens = 0;
  request.exact = options.exact;
  request.cache = cache_options_of(options.cache, context.seed);
  LoadedModel model = load(options.model, {.text = false});
  const auto active = activate(options.adapters, model);
  generation::Session session = new_session(model, request);
  const auto vocab = static_cast<std::size_t>(model.model->config().vocab_size);
  session.check(ids);
  RowsFile file(options.output, "logits", static_cast<std::int64_t>(ids.size()),
                static_cast<std::int64_t>(vocab));
  Progress progress("logits", static_cast<std::int64_t>(ids.size()), "tokens");
  session.feed_all(ids, [&](int, const mlx::core::array& rows) {
    file.write({rows.data<float>(), rows.size()});
    progress.advance(rows.shape(0));
  });
  file.commit();
  context.out.print("{}: logits [{}, {}]\n", options.output, ids.size(), vocab);
  nlohmann::ordered_json summary = {{"model", options.model},
                                    {"output", options.output},
                                    {"tokens", ids.size()},
                                    {"vocab_size", vocab},
                                    {"exact", options.exact}};
  add_cache_summary(session.state().cache(), summary);
  summary["peak_rss_bytes"] = peak_rss_bytes();
  context.out.summary(summary);
}

}  // namespace

Run add_logits(CLI::App& app) {
  auto options = std::make_shared<Options>();
  add_model_argument(app, options->model);
  app.add_option("--input-ids", options->input_ids, "A JSON list of token ids")
      ->required()
      ->type_name("FILE.json");
  app.add_option("-o,--output", options->output,
                 "Where the tensor 'logits', float32 [tokens, vocabulary], goes")
      ->required()
      ->type_name("FILE.safetensors");
  app.add_flag("--exact", options->exact,
               "Compute in float32, without int8 activations and float16 cache");
  add_adapter_flag(app, options->adapters);
  add_cache_flags(app, options->cache);
  return [options](Context& context) { logits(*options, context); };
}

}  // namespace optiq::app
