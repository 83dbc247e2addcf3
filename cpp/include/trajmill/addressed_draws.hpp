// Random numbers that have addresses: (key, draw, row of the batch).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "trajmill/philox.hpp"

namespace trajmill {

__extension__ using Uint128 = unsigned __int128;

// 64-bit numbers for rows first_row (even), first_row + 1, ... of a draw: that of row r < 2^33 is words 2 (r % 2),
// high, and 2 (r % 2) + 1, low, of block r / 2.
inline void draw_words(std::uint64_t key, std::uint64_t draw, std::size_t first_row,
                       std::span<std::uint64_t> words) noexcept {
  for (std::size_t i = 0; i < words.size(); i += 2) {
    const PhiloxBlock block = row_block(key, draw, static_cast<std::uint32_t>((first_row + i) / 2));
    words[i] = std::uint64_t{block[0]} << 32 | block[1];
    if (i + 1 < words.size()) words[i + 1] = std::uint64_t{block[2]} << 32 | block[3];
  }
}

// The number below `bound` that a 64-bit number stands for; uniform up to a bias of bound / 2^64.
[[nodiscard]] inline std::uint64_t scaled_below(std::uint64_t bound, std::uint64_t word) noexcept {
  return static_cast<std::uint64_t>(Uint128{word} * bound >> 64);
}

// The row that a word of 32 bits stands for, of row_count <= 2^32; uniform up to a bias of row_count / 2^32.
[[nodiscard]] inline std::uint64_t chosen_row(std::uint64_t row_count, std::uint32_t word) noexcept {
  return std::uint64_t{word} * row_count >> 32;
}

// Numbers below `bound` for rows of a draw.
inline void draw_below(std::uint64_t bound, std::uint64_t key, std::uint64_t draw, std::size_t first_row,
                       std::span<std::uint64_t> numbers) noexcept {
  draw_words(key, draw, first_row, numbers);
  for (std::uint64_t& number : numbers) number = scaled_below(bound, number);
}

}  // namespace trajmill
