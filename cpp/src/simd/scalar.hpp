// One number to a vector: the reference that the other instruction sets must equal.
#pragma once

#include "kernels.hpp"

namespace trajmill::simd {
namespace {

struct Scalar {
  static constexpr std::size_t kLanes = 1;
  static constexpr int kGroups = 8, kMDPGroups = 4, kImplicitGroups = 4;
  static constexpr bool kTransposes = false;  // then write_transposed is not asked for
  using Vec = std::uint32_t;
  using Pair = std::uint64_t;
  using Half = std::uint64_t;
  using Mask = bool;

  static Vec vec(std::uint32_t value) { return value; }
  static Vec load(const std::uint32_t* from) { return *from; }
  static void store(std::uint32_t* out, Vec a) { *out = a; }
  static Vec add(Vec a, Vec b) { return a + b; }
  static Vec subtract(Vec a, Vec b) { return a - b; }
  static Vec multiply_low(Vec a, Vec b) { return a * b; }
  static Vec bit_and(Vec a, Vec b) { return a & b; }
  static Vec bit_or(Vec a, Vec b) { return a | b; }
  template <int count>
  static Vec shift_left(Vec a) {
    return a << count;
  }
  template <int count>
  static Vec shift_right(Vec a) {
    return a >> count;
  }
  static Vec shift_left(Vec a, Vec counts) { return a << counts; }  // each below 32
  static Vec shift_right(Vec a, Vec counts) { return a >> counts; }
  static Vec gather(const std::uint32_t* table, Vec index) { return table[index]; }
  static void scatter(std::uint32_t* table, Vec index, Vec value) { table[index] = value; }
  static Vec gather_even(const std::uint32_t* table, Vec index) { return table[2 * std::size_t{index}]; }
  static Vec gather_odd(const std::uint32_t* table, Vec index) { return table[2 * std::size_t{index} + 1]; }

  static Mask below(Vec a, Vec b) { return a < b; }
  static Mask equal(Vec a, Vec b) { return a == b; }
  static Mask test(Vec a, Vec bit) { return (a & bit) != 0; }
  static Mask both(Mask a, Mask b) { return a && b; }
  static Mask either(Mask a, Mask b) { return a || b; }
  static Mask neither(Mask a, Mask b) { return !a && !b; }
  static Vec select(Mask mask, Vec yes, Vec no) { return mask ? yes : no; }
  static std::uint32_t bits(Mask mask) { return mask; }

  // How many of sixteen numbers in ascending order are at most `word`; not all of them.
  static std::uint32_t count_at_most(const std::uint32_t* sixteen, std::uint32_t word) {
    std::uint32_t count = 0;  // by halving; GCC 12 for Arm makes vectors of sixteen comparisons, and sums them wrongly
    for (const std::uint32_t half : {8u, 4u, 2u, 1u}) count += sixteen[count + half - 1] <= word ? half : 0;
    return count;
  }

  static Half half(std::uint32_t value) { return value; }
  static Pair same(Half value) { return value; }
  static Pair spread(Vec a) { return a; }
  static Pair join(Vec low, Vec high) { return low | Pair{high} << 32; }
  static Pair add(Pair a, Pair b) { return a + b; }
  static Pair subtract(Pair a, Pair b) { return a - b; }
  static Pair multiply(Pair a, Half b) { return (a & 0xFFFFFFFF) * (b & 0xFFFFFFFF); }
  static Pair high(Pair a) { return a >> 32; }
  static Pair to_high(Pair a) { return a << 32; }
  static Pair exclusive_or(Pair a, Half b) { return a ^ b; }
  static Pair exclusive_or(Pair a, Pair b, Half c) { return a ^ b ^ c; }
  static Vec pack_low(Pair a) { return static_cast<Vec>(a); }
  static Vec pack_high(Pair a) { return static_cast<Vec>(a >> 32); }
};

}  // namespace
}  // namespace trajmill::simd
