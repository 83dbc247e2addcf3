// What a sampling call may ask for, and how its rows are shared out. Internal to the core.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "simd/kernels.hpp"
#include "trajmill/error.hpp"

namespace trajmill {

// Words of one sequence are numbered by a 32-bit block of four; wide tables spend two words a step.
inline constexpr std::uint64_t kLongestSequence = std::uint64_t{1} << 32;

inline void require_addressable(std::uint64_t first, std::uint64_t count, std::uint64_t length, const char* what) {
  if (length > kLongestSequence) {
    throw std::invalid_argument(message("length must be at most 2^32, got ", length));
  }
  if (first + count < first) {
    throw std::invalid_argument(message(what, " numbers must stay below 2^64, got ", count, " from ", first));
  }
}

// Rows per task: whole groups of the kernels, about a million values, or an even share where rows are few.
inline std::size_t row_grain(std::size_t row_count, std::size_t length, std::size_t thread_count) {
  constexpr std::size_t kValuesPerTask = std::size_t{1} << 20;
  if (row_count < 2 * thread_count * simd::kRowGrain) {
    return std::max<std::size_t>(1, (row_count + thread_count - 1) / std::max<std::size_t>(1, thread_count));
  }
  return simd::kRowGrain * std::max<std::size_t>(1, kValuesPerTask / (simd::kRowGrain * (length + 1)));
}

}  // namespace trajmill
