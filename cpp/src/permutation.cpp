#include "trajmill/permutation.hpp"

#include <algorithm>
#include <bit>
#include <stdexcept>

#include "trajmill/error.hpp"
#include "trajmill/philox.hpp"

namespace trajmill {
namespace {

constexpr std::uint32_t kRounds = 8;

constexpr std::uint64_t mask(std::uint32_t bits) { return (std::uint64_t{1} << bits) - 1; }

}  // namespace

Permutation::Permutation(std::uint64_t size, std::uint64_t seed, std::uint64_t epoch)
    : Permutation(size, derive_key(seed, Domain::corpus_order, {size, epoch})) {}

Permutation::Permutation(std::uint64_t size, std::uint64_t key) : size_(size), key_(key) {
  if (size == 0) throw std::invalid_argument("a permutation needs at least one row");
  const auto bits = std::max<std::uint32_t>(2, static_cast<std::uint32_t>(std::bit_width(size - 1)));
  low_bits_ = bits / 2;
  high_bits_ = bits - low_bits_;
}

std::uint64_t Permutation::operator()(std::uint64_t position) const noexcept {
  do {
    std::uint64_t low = position & mask(low_bits_);
    std::uint64_t high = position >> low_bits_;
    for (std::uint32_t round = 0; round < kRounds; ++round) {
      const bool even = round % 2 == 0;
      const auto half = static_cast<std::uint32_t>(even ? low : high);
      const std::uint32_t word = philox4x32({half, round, 0, 0}, key_)[0];
      if (even) {
        high ^= word & mask(high_bits_);
      } else {
        low ^= word & mask(low_bits_);
      }
    }
    position = high << low_bits_ | low;
  } while (position >= size_);
  return position;
}

void Permutation::apply(std::span<const std::uint64_t> positions, std::span<std::uint64_t> out) const {
  for (std::size_t i = 0; i < positions.size(); ++i) {
    const std::uint64_t position = positions[i];  // once: the caller may change it meanwhile
    if (position >= size_) throw std::out_of_range(message("positions must be below ", size_, ", got ", position));
    out[i] = (*this)(position);
  }
}

}  // namespace trajmill
