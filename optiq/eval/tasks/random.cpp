#include "optiq/eval/tasks/random.h"

namespace optiq::eval {
namespace {

constexpr std::uint64_t kGolden = 0x9e3779b97f4a7c15;

std::uint64_t mixed(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

}  // namespace

Random::Random(std::string_view task, std::uint64_t seed, int length, int index)
    : state_(mixed(seed + kGolden)) {
  for (const char c : task) state_ = mixed(state_ ^ static_cast<unsigned char>(c));
  state_ = mixed(state_ + static_cast<std::uint64_t>(length));
  state_ = mixed(state_ + kGolden * static_cast<std::uint64_t>(index));
}

std::uint64_t Random::next() { return mixed(state_ += kGolden); }

}  // namespace optiq::eval
