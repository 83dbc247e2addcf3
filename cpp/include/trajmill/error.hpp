// Messages that show the value that was wrong.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace trajmill {

template <class... Parts>
[[nodiscard]] std::string message(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return text.str();
}

// Thrown when the caller's interrupt check asked long work to stop; what was being written is not complete.
struct Interrupted : std::runtime_error {
  Interrupted() : std::runtime_error("interrupted") {}
};

}  // namespace trajmill
