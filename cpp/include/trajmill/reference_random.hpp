// NumPy's generators, word for word: default_rng (SeedSequence and PCG64) and the legacy RandomState (MT19937).
//
// SeedSequence is described in NumPy's documentation and NEP 19; O'Neill, "PCG: A Family of
// Simple Fast Space-Efficient Statistically Good Algorithms" (HMC-CS-2014-0905); Matsumoto and Nishimura, "Mersenne
// Twister" (ACM TOMACS 8, 1998).
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

namespace trajmill {

__extension__ using Uint128 = unsigned __int128;

// PCG64 as default_rng(entropy) seeds it: a 128-bit linear congruential generator with a permuted output.
struct Pcg64 {
  static constexpr Uint128 kMultiplier = Uint128{0x2360ED051FC65DA4} << 64 | 0x4385DF649FCCF645;

  // default_rng([entropy...]); a list of one number is that number.
  explicit Pcg64(std::span<const std::uint64_t> entropy) noexcept;
  Pcg64(Uint128 state_, Uint128 increment_) noexcept : state(state_), increment(increment_) {}

  // The next draw as an integer below 2^53: Generator.random() is this times 2^-53.
  std::uint64_t next() noexcept { return output(state = state * kMultiplier + increment); }
  static constexpr std::uint64_t output(Uint128 state) noexcept {
    const auto high = static_cast<std::uint64_t>(state >> 64);
    return std::rotr(high ^ static_cast<std::uint64_t>(state), static_cast<int>(high >> 58)) >> 11;
  }
  double next_double() noexcept { return static_cast<double>(next()) * 0x1p-53; }

  Uint128 state;
  Uint128 increment;
};

// MT19937 as np.random.seed(seed) seeds it.
class Mt19937 {
 public:
  explicit Mt19937(std::uint32_t seed) noexcept;
  std::uint32_t next() noexcept;
  double next_double() noexcept;                           // random_sample()
  std::uint32_t next_below(std::uint32_t count) noexcept;  // randint(count), count >= 1

  // How a seed becomes a state: word i follows word i - 1.
  static constexpr std::uint32_t seed_word(std::uint32_t before, std::uint32_t i) noexcept {
    return 1812433253 * (before ^ before >> 30) + i;
  }
  // A state word's successor, from itself, the next one and the one kFar ahead.
  static constexpr std::uint32_t kFar = 397;
  static constexpr std::uint32_t twist(std::uint32_t word, std::uint32_t next, std::uint32_t far) noexcept {
    const std::uint32_t y = (word & 0x80000000) | (next & 0x7FFFFFFF);
    return far ^ y >> 1 ^ (y & 1 ? 0x9908B0DF : 0);
  }
  // What a state word looks like from outside.
  static constexpr std::uint32_t temper(std::uint32_t word) noexcept {
    word ^= word >> 11;
    word ^= word << 7 & 0x9D2C5680;
    word ^= word << 15 & 0xEFC60000;
    return word ^ word >> 18;
  }
  // randint(count) keeps these bits of an output, and takes another output if they do not fit.
  static constexpr std::uint32_t mask_below(std::uint32_t count) noexcept {
    return count < 2 ? 0 : ~std::uint32_t{0} >> std::countl_zero(count - 1);
  }
  // What random_sample() makes of two outputs.
  static double to_double(std::uint32_t first, std::uint32_t second) noexcept {
    return ((first >> 5) * 67108864.0 + (second >> 6)) / 9007199254740992.0;
  }

 private:
  static constexpr std::size_t kSize = 624;
  std::array<std::uint32_t, kSize> words_;
  std::size_t position_ = kSize;
};

}  // namespace trajmill
