#include "optiq/server/serve_model.h"

#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "optiq/base/error.h"
#include "optiq/base/format.h"
#include "optiq/base/log.h"
#include "optiq/generate/engine/idle_engine.h"
#include "optiq/generate/model_location.h"

namespace optiq::server {
namespace {

using Json = nlohmann::ordered_json;

int bits_of(const kernels::LinearWeight& weight) {
  if (weight.quantized()) return weight.spec.bits;
  return static_cast<int>(8 * weight.weight.itemsize());
}

// "self_attn.q_proj" of "layers.3.self_attn.q_proj".
std::string within_layer(const std::string& name) {
  if (!name.starts_with("layers.")) return name;
  return name.substr(name.find('.', sizeof "layers." - 1) + 1);
}

std::string layer_name(int layer, int n_layers) {
  if (layer == models::LinearModule::kEmbedding) return "emb";
  return layer == n_layers ? "head" : std::to_string(layer);
}

int bits_per_value(const KvFormat& format) { return format.bits; }

// What the page draws: each layer's matrices and caches, and their bits.
Json page_of(models::Model& model, const cache::KvCache& cache, const std::string& name,
             int context_length, const std::string& summary) {
  Json layers = Json::array();
  std::map<int, Json> by_layer;
  for (const models::LinearModule* module : model.linears()) {
    Json one;
    one["name"] = within_layer(module->name);
    one["bits"] = bits_of(module->weight);
    if (module->weight.quantized()) one["group_size"] = module->weight.spec.group_size;
    by_layer[module->layer].push_back(std::move(one));
  }
  for (auto& [layer, modules] : by_layer) {
    Json one;
    one["name"] = layer_name(layer, model.n_layers());
    one["modules"] = std::move(modules);
    const cache::LayerPages* pages =
        layer >= 0 && layer < model.n_layers() ? cache.layer(layer) : nullptr;
    if (pages) {
      one["k"] = describe(pages->formats.k);
      one["v"] = describe(pages->formats.v);
      one["k_bits"] = bits_per_value(pages->formats.k);
      one["v_bits"] = bits_per_value(pages->formats.v);
    }
    layers.push_back(std::move(one));
  }
  Json page;
  page["name"] = name;
  page["summary"] = summary;
  page["context_length"] = context_length;
  page["layers"] = std::move(layers);
  return page;
}

// "float16 keys and values", or what most layers have and that they differ.
std::string cache_summary(const cache::KvCache& cache) {
  std::map<std::string, int> formats;
  for (std::size_t i = 0; i < cache.shapes().size(); ++i)
    if (const cache::LayerPages* layer = cache.layer(static_cast<int>(i)))
      ++formats[describe(layer->formats.k) + " keys, " + describe(layer->formats.v) +
                " values"];
  std::string text;
  for (const auto& [format, n] : formats)
    text += fmt::format("{}{} layer{}: {}", text.empty() ? "" : "; ", n,
                        n == 1 ? "" : "s", format);
  return text;
}

// Reads adapters for a model, as long as that is in memory.
ServedAdapters::Load adapter_loader(std::weak_ptr<LoadedModel> model) {
  return [model = std::move(model)](const std::string& source) {
    const auto loaded = model.lock();
    if (!loaded)
      throw ResourceError(
          "the model is unloaded at the moment (--idle-unload): ask it something "
          "first");
    return adapters::load_adapter(find_adapter(source), *loaded->model);
  };
}

// The engine's options with the small model loaded, if there is to be one.
generation::BatchOptions with_draft(generation::BatchOptions engine,
                                    const std::string& draft,
                                    const LoadedModel& model) {
  if (draft.empty()) return engine;
  engine.draft.model = std::make_shared<LoadedModel>(load(draft));
  generation::check_draft_model(model, *engine.draft.model);
  return engine;
}

}  // namespace

std::string model_name(const std::string& model) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(model, ignored)) return model;
  const auto path = std::filesystem::weakly_canonical(model, ignored);
  const std::string name = path.filename().string();
  return name.empty() ? "model" : name;
}

Opened open_model(const ModelOptions& options) {
  generation::BatchOptions engine = options.engine;
  if (options.exact) {
    engine.activation = kernels::Activation::kExact;
    engine.cache.float_type = FloatType::kF32;
  }
  auto loaded = std::make_shared<LoadedModel>(load(options.model));
  if (!loaded->tokenizer)
    throw std::invalid_argument(options.model + ": serving needs a tokenizer");
  const int trained = loaded->model->config().max_position_embeddings;
  const cache::KvCache cache(loaded->model->layer_shapes(), engine.cache);

  Opened opened;
  ServedModel& served = opened.model;
  served.id = model_name(options.model);
  served.created_s = std::chrono::duration_cast<std::chrono::seconds>(
                         std::chrono::system_clock::now().time_since_epoch())
                         .count();
  served.tokenizer = std::make_shared<const text::Tokenizer>(*loaded->tokenizer);
  if (loaded->chat_template)
    served.chat_template =
        std::make_shared<const text::ChatTemplate>(*loaded->chat_template);
  served.end_ids = loaded->eos_ids;
  served.adapters = std::make_shared<ServedAdapters>(adapter_loader(loaded));
  try {
    served.grammars = std::make_shared<const text::GrammarCompiler>(
        *served.tokenizer, loaded->model->config().vocab_size,
        std::vector<int>(served.end_ids.begin(), served.end_ids.end()));
  } catch (const std::exception& error) {
    log_warning("no constrained output: {}", error.what());
  }
  const std::uint64_t budget = cache.store().budget_bytes();
  opened.description = {
      fmt::format(
          "{}: {} of weights; cache of {}", served.id,
          format_bytes(static_cast<std::uint64_t>(loaded->model->weight_bytes())),
          cache_summary(cache)),
      fmt::format("cache: {} a token, at most {}; {} requests at once, {} waiting",
                  format_bytes(static_cast<std::uint64_t>(cache.bytes_per_token())),
                  format_bytes(budget), engine.max_concurrent, engine.max_queue)};
  for (const AdapterSource& source : options.adapters) {
    if (source.name == served.id)
      throw std::invalid_argument("--adapter " + source.name +
                                  ": this is the name of the model");
    const auto entry = served.adapters->mount(source.name, source.path);
    opened.description.push_back(fmt::format("adapter {}: {}, {} linear layers, {}",
                                             entry.id, entry.summary, entry.modules,
                                             format_bytes(entry.bytes)));
  }
  if (options.adapters.size() == 1)
    served.adapters->set_default(options.adapters[0].name);
  if (!served.chat_template)
    log_warning("{} has no chat template: only /v1/completions and /v1/embeddings",
                served.id);
  if (engine.context_length > trained)
    log_warning(
        "--max-context {}: the model was trained to {} tokens and may write "
        "nonsense beyond",
        engine.context_length, trained);
  opened.page = page_of(*loaded->model, cache, served.id,
                        engine.context_length > 0 ? engine.context_length : trained,
                        opened.description[0])
                    .dump();
  if (options.idle_unload.count() == 0) {
    const auto drafting = with_draft(engine, options.draft_model, *loaded);
    served.engine =
        std::make_shared<generation::BatchEngine>(std::move(loaded), drafting);
    return opened;
  }
  const int context_length =
      engine.context_length > 0 ? engine.context_length : trained;
  served.engine = std::make_shared<generation::IdleEngine>(
      [first = std::move(loaded), name = options.model, draft = options.draft_model,
       engine]() mutable {
        auto model = first ? std::exchange(first, nullptr)
                           : std::make_shared<LoadedModel>(load(name));
        const auto drafting = with_draft(engine, draft, *model);
        return std::make_unique<generation::BatchEngine>(std::move(model), drafting);
      },
      generation::IdleOptions{.unload_after = options.idle_unload,
                              .context_length = context_length,
                              .max_waiting = engine.max_concurrent + engine.max_queue});
  return opened;
}

}  // namespace optiq::server
