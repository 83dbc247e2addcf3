// Numbers below a bound that have addresses: (key, draw, position).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "trajmill/philox.hpp"

namespace trajmill {

__extension__ using Uint128 = unsigned __int128;

// Numbers below `bound` for rows first_row (even), first_row + 1, ... of a draw. Row r < 2^33 gets the high half of
// bound times the 64-bit number of words 2 (r % 2), high, and 2 (r % 2) + 1, low, of block r / 2; uniform up to a bias
// of bound / 2^64.
inline void draw_below(std::uint64_t bound, std::uint64_t key, std::uint64_t draw, std::size_t first_row,
                       std::span<std::uint64_t> numbers) noexcept {
  const auto scaled = [&](std::uint32_t high, std::uint32_t low) {
    return static_cast<std::uint64_t>(Uint128{std::uint64_t{high} << 32 | low} * bound >> 64);
  };
  for (std::size_t i = 0; i < numbers.size(); i += 2) {
    const PhiloxBlock block = row_block(key, draw, static_cast<std::uint32_t>((first_row + i) / 2));
    numbers[i] = scaled(block[0], block[1]);
    if (i + 1 < numbers.size()) numbers[i + 1] = scaled(block[2], block[3]);
  }
}

}  // namespace trajmill
