#include "command.h"

namespace optiq::app {
namespace {

constexpr Command kCommands[] = {
    {"convert", "Measure a model, choose bits for each layer, and write it",
     add_convert},
    {"inspect", "Show the bits and the sensitivity of each layer", add_inspect},
    {"kv-cache", "Measure each layer's key-value cache, and choose its bits",
     add_kv_cache},
    {"generate", "Answer one prompt", add_generate},
    {"chat", "Talk with a model, line by line", add_chat},
    {"serve", "Answer over HTTP, as OpenAI's and as Anthropic's API", add_serve},
    {"lora train", "Train an adapter, with ranks where the model is sensitive",
     add_lora_train},
    {"lora info", "Show an adapter's ranks", add_lora_info},
    {"lora merge", "Make one adapter of several", add_lora_merge},
    {"lora export", "Write an adapter for mlx-lm and PEFT, or a model with it built in",
     add_lora_export},
    {"logits", "Write the logits of given tokens to a file", add_logits},
    {"eval", "Measure perplexity, divergence from a reference, or right answers",
     add_eval},
    {"benchmark", "Measure the speed of prefill and decoding", add_benchmark},
    {"pull", "Download a model from the hub", add_pull},
    {"info", "Show the build, devices, instruction set and threads in use", add_info},
};

}  // namespace

std::span<const Command> commands() { return kCommands; }

const char* group_description(const std::string& group) {
  return group == "lora" ? "Train, show, merge and export LoRA adapters" : "";
}

}  // namespace optiq::app
