// Philox4x32-10 on many lanes, written once over a vector type V (scalar.cpp, sse4.cpp, avx2.cpp, avx512.cpp and
// neon.cpp each bring theirs).
//
// V offers V::kLanes numbers at a time as
//   Vec   32-bit numbers, in order;
//   Pair  the same numbers one to a 64-bit lane, where a 32 x 32 -> 64 multiplication needs no shuffle; operations on
//         the low halves ignore the high ones;
//   Half  one number in every 64-bit lane of one register;
//   Mask  a truth value for each number.
// Everything in these headers is a template over V, and nothing from the standard library is called: a function shared
// between files that are compiled for different instruction sets could be linked from the wrong one.
#pragma once

#include "kernels.hpp"
#include "trajmill/philox.hpp"

#define TRAJMILL_INLINE inline __attribute__((always_inline))

namespace trajmill::simd {

// The round keys of one key for all lanes.
template <class V>
struct SharedKeys {
  typename V::Half even_keys[kPhiloxRounds], odd_keys[kPhiloxRounds];

  explicit SharedKeys(std::uint64_t key) {
    for (int round = 0; round < kPhiloxRounds; ++round) {
      even_keys[round] = V::half(static_cast<std::uint32_t>(key) + static_cast<std::uint32_t>(round) * kPhiloxWeyl0);
      odd_keys[round] =
          V::half(static_cast<std::uint32_t>(key >> 32) + static_cast<std::uint32_t>(round) * kPhiloxWeyl1);
    }
  }
  TRAJMILL_INLINE typename V::Half even(int round) const { return even_keys[round]; }
  TRAJMILL_INLINE typename V::Half odd(int round) const { return odd_keys[round]; }
};

// Rounds first .. last - 1 on `c`.
template <class V, int first, int last, class Keys>
TRAJMILL_INLINE void philox_rounds(const Keys& keys, typename V::Pair (&c)[4]) {
  const auto multiplier0 = V::half(kPhiloxMultiplier0);
  const auto multiplier1 = V::half(kPhiloxMultiplier1);
  auto c0 = c[0], c1 = c[1], c2 = c[2], c3 = c[3];
#pragma GCC unroll 10
  for (int round = first; round < last; ++round) {
    const auto product0 = V::multiply(c0, multiplier0);
    const auto product1 = V::multiply(c2, multiplier1);
    c0 = V::exclusive_or(V::high(product1), c1, keys.even(round));
    c1 = product1;
    c2 = V::exclusive_or(V::high(product0), c3, keys.odd(round));
    c3 = product0;
  }
  c[0] = c0, c[1] = c1, c[2] = c2, c[3] = c3;
}

// The stream of one key for V::kLanes sequences. Its first two rounds mix the block number, the same for all lanes,
// with the sequence numbers, the same for all blocks; what they do to the latter is done once.
template <class V>
class Stream {
 public:
  using Pair = typename V::Pair;

  TRAJMILL_INLINE void start(std::uint64_t key, Pair sequence) {
    key_ = key;
    const Pair product1 = V::multiply(V::high(sequence), V::half(kPhiloxMultiplier1));
    const Pair c0 = V::exclusive_or(V::high(product1), sequence, V::half(static_cast<std::uint32_t>(key)));
    const Pair product0 = V::multiply(c0, V::half(kPhiloxMultiplier0));
    c0_ = V::exclusive_or(product1, V::half(static_cast<std::uint32_t>(key) + kPhiloxWeyl0));
    c2_ = V::exclusive_or(V::high(product0), V::half(static_cast<std::uint32_t>(key >> 32) + kPhiloxWeyl1));
    c3_ = product0;
  }

  // The words of counter (block low, sequence low, sequence high, block high).
  TRAJMILL_INLINE void draw(const SharedKeys<V>& keys, std::uint64_t block, Pair (&words)[4]) const {
    begin(block, words);
    philox_rounds<V, kBegun, kPhiloxRounds>(keys, words);
  }

  // What is left of that to do after kBegun rounds.
  static constexpr int kBegun = 2;
  TRAJMILL_INLINE void begin(std::uint64_t block, Pair (&words)[4]) const {
    const std::uint64_t product0 = std::uint64_t{kPhiloxMultiplier0} * static_cast<std::uint32_t>(block);
    const std::uint32_t c2 = static_cast<std::uint32_t>(product0 >> 32) ^ static_cast<std::uint32_t>(block >> 32) ^
                             static_cast<std::uint32_t>(key_ >> 32);
    const std::uint64_t product1 = std::uint64_t{kPhiloxMultiplier1} * c2;
    words[0] = V::exclusive_or(c0_, V::half(static_cast<std::uint32_t>(product1 >> 32)));
    words[1] = V::same(V::half(static_cast<std::uint32_t>(product1)));
    words[2] = V::exclusive_or(c2_, V::half(static_cast<std::uint32_t>(product0)));
    words[3] = c3_;
  }

 private:
  std::uint64_t key_;
  Pair c0_, c2_, c3_;  // after two rounds, without what the block number adds
};

}  // namespace trajmill::simd
