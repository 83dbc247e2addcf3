// Messages that show the value that was wrong.
#pragma once

#include <array>
#include <charconv>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

namespace trajmill {

inline void append(std::string& text, std::string_view part) { text += part; }

// Numbers go through to_chars: streams need a locale, which a statically linked libstdc++ cannot count on in a plugin.
template <class Number>
  requires std::is_arithmetic_v<Number>
void append(std::string& text, Number value) {
  std::array<char, 32> digits{};
  char* const last = digits.data() + digits.size();
  if constexpr (std::is_floating_point_v<Number>) {
    text.append(digits.data(), std::to_chars(digits.data(), last, value, std::chars_format::general, 6).ptr);
  } else {
    text.append(digits.data(), std::to_chars(digits.data(), last, value).ptr);
  }
}

// The parts, strings and numbers, one after another.
template <class... Parts>
[[nodiscard]] std::string message(const Parts&... parts) {
  std::string text;
  (append(text, parts), ...);
  return text;
}

// Throws std::invalid_argument with these parts unless the condition holds. They are put together only then: some
// checks are made for every number.
template <class... Parts>
void require(bool holds, const Parts&... parts) {
  if (!holds) throw std::invalid_argument(message(parts...));
}

// Throws std::invalid_argument unless that many bytes may be taken for what the parts name.
template <class... Parts>
void require_memory(double byte_count, double limit, std::string_view remedy, const Parts&... parts) {
  require(byte_count <= limit, parts..., " need ", byte_count / 0x1p30, " GiB, more than the ", limit / 0x1p30,
          " GiB allowed here; ", remedy);
}

// Thrown when the caller's interrupt check asked long work to stop; what was being written is not complete.
struct Interrupted : std::runtime_error {
  Interrupted() : std::runtime_error("interrupted") {}
};

}  // namespace trajmill
