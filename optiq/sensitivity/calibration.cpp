#include "optiq/sensitivity/calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <sstream>

#include "optiq/base/error.h"
#include "optiq/base/file.h"
#include "optiq/sensitivity/builtin_calibration.h"

namespace optiq::sensitivity {
namespace {

using json = nlohmann::ordered_json;

constexpr std::size_t kFileLimit = std::size_t{1} << 30;

// SplitMix64 (Steele, Lea and Flood 2014): the same shuffle on every platform.
std::uint64_t next_random(std::uint64_t& state) {
  std::uint64_t z = (state += 0x9e3779b97f4a7c15);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

template <class T>
void shuffle(std::vector<T>& items, std::uint64_t seed) {
  for (std::size_t i = items.size(); i > 1; --i)
    std::swap(items[i - 1], items[next_random(seed) % i]);
}

std::vector<json> parse_lines(std::string_view text, const std::string& file) {
  std::vector<json> samples;
  std::istringstream lines{std::string(text)};
  std::string line;
  for (int number = 1; std::getline(lines, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    json sample = json::parse(line, nullptr, /*allow_exceptions=*/false);
    const auto is = [&](const char* key, auto test) {
      return sample.is_object() && sample.contains(key) && (sample[key].*test)();
    };
    if (!is("text", &json::is_string) && !is("messages", &json::is_array))
      throw CheckpointError(fmt::format(
          "{}: line {}: expected an object with `text` or `messages`", file, number));
    samples.push_back(std::move(sample));
  }
  if (samples.empty())
    throw CheckpointError(fmt::format("{}: expected samples, found none", file));
  return samples;
}

// FNV-1a over the tokens.
std::string fingerprint_of(const std::vector<std::vector<int>>& windows) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const auto& window : windows)
    for (int token : window) {
      hash ^= static_cast<std::uint32_t>(token);
      hash *= 0x100000001b3;
    }
  return fmt::format("{:016x}", hash);
}

}  // namespace

std::vector<json> read_samples(const std::filesystem::path& file) {
  return parse_lines(read_file(file, kFileLimit), file.string());
}

std::vector<json> builtin_samples() {
  return parse_lines(builtin_calibration(), "the built-in calibration");
}

Calibration make_calibration(const std::vector<json>& samples,
                             const CalibrationOptions& options,
                             const Tokenize& tokenize) {
  // The order of samples is drawn too, so that another seed cuts other windows.
  std::vector<const json*> order;
  for (const json& sample : samples) order.push_back(&sample);
  shuffle(order, options.seed);

  Calibration calibration;
  std::vector<int> stream;
  for (const json* sample : order) {
    const std::vector<int> tokens = tokenize(*sample);
    stream.insert(stream.end(), tokens.begin(), tokens.end());
    ++calibration.samples_by_domain[sample->value("domain", "other")];
  }

  auto length = static_cast<std::size_t>(options.window_tokens);
  if (stream.size() < 2 * length) length = stream.size() / 2;
  if (length < 8)
    throw CheckpointError(fmt::format(
        "{}: expected text for windows of {} tokens, found {} tokens in all",
        options.source, options.window_tokens, stream.size()));
  std::vector<std::vector<int>> windows;
  for (std::size_t begin = 0; begin + length <= stream.size(); begin += length)
    windows.emplace_back(stream.begin() + static_cast<std::ptrdiff_t>(begin),
                         stream.begin() + static_cast<std::ptrdiff_t>(begin + length));
  shuffle(windows, options.seed + 1);

  const auto wanted = static_cast<std::size_t>(options.n_windows);
  const auto held_out = static_cast<std::size_t>(options.n_held_out);
  std::size_t n_held_out = held_out;
  if (windows.size() < wanted + held_out)
    n_held_out =
        std::max<std::size_t>(1, windows.size() * held_out / (wanted + held_out));
  const std::size_t n = std::min(wanted, windows.size() - n_held_out);
  const auto at = [&](std::size_t i) {
    return windows.begin() + static_cast<std::ptrdiff_t>(i);
  };
  calibration.windows.assign(at(0), at(n));
  calibration.held_out.assign(at(n), at(n + n_held_out));
  calibration.fingerprint = fingerprint_of(calibration.windows);
  return calibration;
}

}  // namespace optiq::sensitivity
