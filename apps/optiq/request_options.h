// The flags of commands that answer: prompt, sampling, limits.
#pragma once
#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "adapter_flag.h"
#include "cache_flags.h"
#include "command.h"
#include "draft_flags.h"
#include "optiq/generate/generate.h"

namespace optiq::app {

struct RequestOptions {
  std::string model;
  int max_tokens = 256;
  double temp = 0;
  double top_p = 1;
  int top_k = 0;
  double min_p = 0;
  std::vector<std::string> stop;
  bool ignore_eos = false;
  bool exact = false;
  CacheFlags cache;
  AdapterFlag adapters;
  DraftFlags draft;
  std::string system;
  std::string template_config;  // JSON, variables of the chat template
};

/// Adds MODEL.
void add_model_argument(CLI::App& app, std::string& model);

/// Adds MODEL and the flags.
void add_request_options(CLI::App& app, RequestOptions& options);

/// The request without its prompt.
Request request_of(const RequestOptions& options, const Context& context);

/// The variables that --chat-template-config gives the template.
///
/// Throws    UsageError if it is no JSON object.
text::ChatOptions chat_options_of(const RequestOptions& options);

/// Ids from a JSON file: a list of integers.
///
/// Throws    CheckpointError naming the file and the entry.
std::vector<int> read_ids(const std::string& file);

}  // namespace optiq::app
