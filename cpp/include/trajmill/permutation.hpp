// A keyed bijection of [0, size): an order of any number of rows that takes no memory and has no history.
//
// A Feistel network (Luby, Rackoff 1988) over the smallest power of two that holds `size`, whose round function is a
// Philox word; numbers that land outside are sent round again ("cycle walking", Black, Rogaway 2002), less than once on
// average.
#pragma once

#include <cstdint>
#include <span>

namespace trajmill {

class Permutation {
 public:
  // The order of `size` >= 1 rows that belongs to a seed and an epoch.
  Permutation(std::uint64_t size, std::uint64_t seed, std::uint64_t epoch);

  // The order of `size` >= 1 rows that belongs to a key.
  Permutation(std::uint64_t size, std::uint64_t key);

  [[nodiscard]] std::uint64_t size() const noexcept { return size_; }

  // Where `position` < size() goes.
  [[nodiscard]] std::uint64_t operator()(std::uint64_t position) const noexcept;

  // The same for many; throws std::out_of_range if one is not below size().
  void apply(std::span<const std::uint64_t> positions, std::span<std::uint64_t> out) const;

 private:
  std::uint64_t size_;
  std::uint64_t key_;
  std::uint32_t low_bits_;   // width of the low half, at least 1
  std::uint32_t high_bits_;  // width of the high half: the same or one more
};

}  // namespace trajmill
