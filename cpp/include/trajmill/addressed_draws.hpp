// Numbers below a bound that have addresses: (key, draw, position).
#pragma once

#include <cstddef>
#include <cstdint>

#include "trajmill/philox.hpp"

namespace trajmill {

__extension__ using Uint128 = unsigned __int128;

// The number below `bound` that belongs to row `row` < 2^33 of a draw: the high half of bound times the 64-bit number
// of words 2 (row % 2), high, and 2 (row % 2) + 1, low, of block row / 2; uniform up to a bias of bound / 2^64.
[[nodiscard]] constexpr std::uint64_t draw_below(std::uint64_t bound, std::uint64_t key, std::uint64_t draw,
                                                 std::uint64_t row) noexcept {
  const PhiloxBlock block = row_block(key, draw, static_cast<std::uint32_t>(row >> 1));
  const std::size_t word = 2 * (row & 1);
  const std::uint64_t number = std::uint64_t{block[word]} << 32 | block[word + 1];
  return static_cast<std::uint64_t>(Uint128{number} * bound >> 64);
}

}  // namespace trajmill
