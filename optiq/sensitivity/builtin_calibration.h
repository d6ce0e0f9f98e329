// The built-in calibration text, embedded in the program.
#pragma once
#include <string_view>

namespace optiq::sensitivity {

/// data/calibration.jsonl, one sample a line.
std::string_view builtin_calibration();

}  // namespace optiq::sensitivity
