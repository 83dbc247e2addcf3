// One number to a vector: the reference that the other instruction sets must equal.
#include "sampling.hpp"

namespace trajmill::simd {
namespace {

struct Scalar {
  static constexpr std::size_t kLanes = 1;
  static constexpr int kGroups = 8;
  using Vec = std::uint32_t;
  using Pair = std::uint64_t;
  struct RoundKeys {
    Pair even[kPhiloxRounds], odd[kPhiloxRounds];
  };

  static Vec vec(std::uint32_t value) { return value; }
  static Vec add(Vec a, Vec b) { return a + b; }
  static Vec subtract(Vec a, Vec b) { return a - b; }
  static Vec multiply_low(Vec a, Vec b) { return a * b; }
  static Vec bit_and(Vec a, Vec b) { return a & b; }
  static Vec bit_or(Vec a, Vec b) { return a | b; }
  static Vec shift_left(Vec a, int count) { return a << count; }
  static Vec select_below(Vec a, Vec b, Vec yes, Vec no) { return a < b ? yes : no; }
  static Vec gather(const std::uint32_t* table, Vec index) { return table[index]; }
  static Vec gather_even(const std::uint32_t* table, Vec index) { return table[2 * std::size_t{index}]; }
  static Vec gather_odd(const std::uint32_t* table, Vec index) { return table[2 * std::size_t{index} + 1]; }
  static void store(std::uint32_t* out, Vec a) { *out = a; }

  static Pair pair(std::uint32_t value) { return value; }
  static Pair pair_sequence(std::uint64_t first) { return first; }
  static Pair multiply(Pair a, Pair b) { return (a & 0xFFFFFFFF) * (b & 0xFFFFFFFF); }
  static Pair high(Pair a) { return a >> 32; }
  static Pair exclusive_or(Pair a, Pair b, Pair c) { return a ^ b ^ c; }
  static Vec pack_low(Pair a) { return static_cast<Vec>(a); }
  static Vec pack_high(Pair a) { return static_cast<Vec>(a >> 32); }
};

}  // namespace

Kernels scalar_kernels() noexcept { return {sample_chain<Scalar>, sample_mdp<Scalar>, philox_checksum<Scalar>}; }

}  // namespace trajmill::simd
