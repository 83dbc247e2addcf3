#include "trajmill/reference_random.hpp"

namespace trajmill {
namespace {

// SeedSequence's two hashes: each multiplies by the next constant of a fixed series.
struct Hash {
  std::uint32_t constant;
  std::uint32_t factor;
  std::uint32_t operator()(std::uint32_t word) noexcept {
    word ^= constant;
    constant *= factor;
    word *= constant;
    return word ^ word >> 16;
  }
};

std::uint32_t mix(std::uint32_t x, std::uint32_t y) noexcept {
  const std::uint32_t mixed = 0xCA01F9DD * x - 0x4973F715 * y;
  return mixed ^ mixed >> 16;
}

// Calls take(word) for the 32-bit words of each number, low first; a number below 2^32 is one word.
template <class Take>
void for_each_word(std::span<const std::uint64_t> entropy, Take&& take) {
  for (const std::uint64_t number : entropy) {
    take(static_cast<std::uint32_t>(number));
    if (number >> 32) take(static_cast<std::uint32_t>(number >> 32));
  }
}

constexpr std::size_t kPoolSize = 4;

std::array<std::uint32_t, kPoolSize> entropy_pool(std::span<const std::uint64_t> entropy) noexcept {
  Hash hash{0x43B0D7E5, 0x931E8875};
  std::array<std::uint32_t, kPoolSize> pool{};
  std::size_t count = 0;
  for_each_word(entropy, [&](std::uint32_t word) {
    if (count < kPoolSize) pool[count] = word;
    ++count;
  });
  for (std::uint32_t& word : pool) word = hash(word);
  for (std::size_t from = 0; from < kPoolSize; ++from) {
    for (std::size_t to = 0; to < kPoolSize; ++to) {
      if (from != to) pool[to] = mix(pool[to], hash(pool[from]));
    }
  }
  if (count > kPoolSize) {
    std::size_t index = 0;
    for_each_word(entropy, [&](std::uint32_t word) {
      if (index++ < kPoolSize) return;
      for (std::uint32_t& to : pool) to = mix(to, hash(word));
    });
  }
  return pool;
}

}  // namespace

Pcg64::Pcg64(std::span<const std::uint64_t> entropy) noexcept {
  const auto pool = entropy_pool(entropy);
  Hash hash{0x8B51F9DD, 0x58F38DED};
  std::array<std::uint64_t, 4> words{};
  for (std::size_t i = 0; i < words.size(); ++i) {
    const std::uint64_t low = hash(pool[2 * i % kPoolSize]);
    words[i] = low | std::uint64_t{hash(pool[(2 * i + 1) % kPoolSize])} << 32;
  }
  increment = (Uint128{words[2]} << 64 | words[3]) << 1 | 1;
  state = (increment + (Uint128{words[0]} << 64 | words[1])) * kMultiplier + increment;
}

Mt19937::Mt19937(std::uint32_t seed) noexcept {
  for (std::uint32_t i = 0; i < kSize; ++i) {
    words_[i] = seed;
    seed = seed_word(seed, i + 1);
  }
}

std::uint32_t Mt19937::next() noexcept {
  if (position_ == kSize) {
    for (std::size_t i = 0; i < kSize; ++i) {
      words_[i] =
          twist(words_[i], words_[i + 1 < kSize ? i + 1 : 0], words_[i < kSize - kFar ? i + kFar : i + kFar - kSize]);
    }
    position_ = 0;
  }
  return temper(words_[position_++]);
}

double Mt19937::next_double() noexcept {
  const std::uint32_t first = next();
  return to_double(first, next());
}

std::uint32_t Mt19937::next_below(std::uint32_t count) noexcept {
  if (count == 1) return 0;
  std::uint32_t word = 0;
  do word = next() & mask_below(count);
  while (word >= count);
  return word;
}

}  // namespace trajmill
