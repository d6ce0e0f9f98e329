#include "optiq/base/error.h"

namespace optiq {

void check_failed(const char* condition, const char* file, int line,
                  const std::string& message) {
  throw std::logic_error(std::string("internal error at ") + file + ":" +
                         std::to_string(line) + ": " + message + " (" + condition +
                         ")");
}

}  // namespace optiq
