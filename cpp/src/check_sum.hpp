// Checks of memory that outlives the process: any change within one word of eight bytes is noticed for certain, any
// other but for one in 2^64. Internal to the core.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace trajmill {

// A bijection of either argument.
[[nodiscard]] constexpr std::uint64_t mixed(std::uint64_t sum, std::uint64_t word) noexcept {
  sum = (sum ^ word) * 0x9E3779B97F4A7C15;  // odd
  return sum ^ sum >> 29;
}

// `sum` with `size` bytes, in eight lanes, so that multiplications do not wait for each other.
[[nodiscard]] inline std::uint64_t mixed(std::uint64_t sum, const std::byte* bytes, std::size_t size) noexcept {
  std::uint64_t lanes[8] = {sum, 1, 2, 3, 4, 5, 6, 7}, words[8];
  const auto take = [&] {
    for (std::size_t lane = 0; lane < 8; ++lane) lanes[lane] = mixed(lanes[lane], words[lane]);
  };
  for (; size >= sizeof(words); bytes += sizeof(words), size -= sizeof(words)) {
    std::memcpy(words, bytes, sizeof(words));
    take();
  }
  if (size > 0) {
    std::memset(words, 0, sizeof(words));
    std::memcpy(words, bytes, size);
    take();
  }
  for (std::size_t half = 4; half > 0; half /= 2) {
    for (std::size_t lane = 0; lane < half; ++lane) lanes[lane] = mixed(lanes[lane], lanes[lane + half]);
  }
  return lanes[0];
}

}  // namespace trajmill
