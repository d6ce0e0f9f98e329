// Figures for Prometheus, in its text form 0.0.4.
#pragma once
#include <array>
#include <map>
#include <mutex>
#include <string>

#include "optiq/generate/engine/engine.h"
#include "optiq/server/http/http_server.h"

namespace optiq::server {

/// Most figures are the engine's own and are read when somebody asks; only what nobody
/// else remembers is kept here.
///
/// Threads   any.
class Metrics {
 public:
  void count_http_error(int status);
  void observe(const std::string& histogram, double seconds);

  std::string text(const generation::EngineStatus& engine,
                   const http::HttpStatus& http) const;

 private:
  static constexpr std::array kBounds_s = {0.01, 0.03, 0.1,  0.3,  1.0,
                                           3.0,  10.0, 30.0, 100.0};
  struct Histogram {
    std::array<std::uint64_t, kBounds_s.size()> counts{};  // up to each bound
    std::uint64_t n = 0;
    double sum = 0;
  };

  mutable std::mutex mutex_;
  std::map<int, std::uint64_t> http_errors_;
  std::map<std::string, Histogram> histograms_;
};

}  // namespace optiq::server
