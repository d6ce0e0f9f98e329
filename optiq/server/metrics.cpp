#include "optiq/server/metrics.h"

#include <fmt/format.h>

#include <iterator>

namespace optiq::server {
namespace {

void add(std::string& text, const char* type, const char* name, double value) {
  fmt::format_to(std::back_inserter(text), "# TYPE optiq_{0} {1}\noptiq_{0} {2}\n",
                 name, type, value);
}

}  // namespace

void Metrics::count_http_error(int status) {
  const std::lock_guard lock(mutex_);
  ++http_errors_[status];
}

void Metrics::observe(const std::string& histogram, double seconds) {
  const std::lock_guard lock(mutex_);
  Histogram& h = histograms_[histogram];
  for (std::size_t i = 0; i < kBounds_s.size(); ++i)
    if (seconds <= kBounds_s[i]) ++h.counts[i];
  ++h.n;
  h.sum += seconds;
}

std::string Metrics::text(const generation::EngineStatus& engine,
                          const http::HttpStatus& http) const {
  std::string text;
  const auto gauge = [&](const char* name, double value) {
    add(text, "gauge", name, value);
  };
  const auto counter = [&](const char* name, std::uint64_t value) {
    add(text, "counter", name, static_cast<double>(value));
  };
  gauge("num_requests_running", engine.running);
  gauge("num_requests_waiting", engine.waiting);
  gauge("seconds_since_progress", engine.since_progress_s);
  gauge("model_loaded", engine.loaded ? 1 : 0);
  counter("engine_steps_total", engine.steps);
  counter("prompt_tokens_total", engine.prompt_tokens);
  counter("prefix_cache_hit_tokens_total", engine.cached_tokens);
  counter("generation_tokens_total", engine.completion_tokens);
  counter("spec_decode_num_draft_tokens_total", engine.drafted_tokens);
  counter("spec_decode_num_accepted_tokens_total", engine.accepted_tokens);
  counter("requests_aborted_total", engine.cancelled);
  counter("requests_failed_total", engine.failed);
  gauge("kv_cache_budget_bytes", static_cast<double>(engine.budget_bytes));
  gauge("kv_cache_used_bytes", static_cast<double>(engine.pages.used_bytes));
  gauge("kv_cache_shared_bytes", static_cast<double>(engine.pages.shared_bytes));
  gauge("kv_cache_free_bytes", static_cast<double>(engine.pages.free_bytes));
  if (engine.budget_bytes > 0)
    gauge("kv_cache_usage_perc",
          static_cast<double>(engine.pages.used_bytes + engine.pages.shared_bytes) /
              static_cast<double>(engine.budget_bytes));
  gauge("prefix_cache_bytes", static_cast<double>(engine.prefix_bytes));
  gauge("prefix_cache_entries", engine.prefix_entries);
  gauge("http_connections", http.connections);
  gauge("http_open_requests", http.open_exchanges);
  counter("http_connections_total", http.accepted);
  counter("http_bad_requests_total", http.bad_requests);
  const std::lock_guard lock(mutex_);
  const auto out = std::back_inserter(text);
  fmt::format_to(out, "# TYPE optiq_http_errors_total counter\n");
  for (const auto& [status, n] : http_errors_)
    fmt::format_to(out, "optiq_http_errors_total{{code=\"{}\"}} {}\n", status, n);
  for (const auto& [name, h] : histograms_) {
    fmt::format_to(out, "# TYPE optiq_{} histogram\n", name);
    for (std::size_t i = 0; i < kBounds_s.size(); ++i)
      fmt::format_to(out, "optiq_{}_bucket{{le=\"{}\"}} {}\n", name, kBounds_s[i],
                     h.counts[i]);
    fmt::format_to(out,
                   "optiq_{0}_bucket{{le=\"+Inf\"}} {1}\noptiq_{0}_sum {2}\n"
                   "optiq_{0}_count {1}\n",
                   name, h.n, h.sum);
  }
  return text;
}

}  // namespace optiq::server
