// Eight numbers to a vector. Compiled with -mavx2.
#include <immintrin.h>

#include "sampling.hpp"

namespace trajmill::simd {
namespace {

struct Avx2 {
  static constexpr std::size_t kLanes = 8;
  static constexpr int kGroups = 4;
  using Vec = __m256i;
  struct Pair {
    __m256i even, odd;  // numbers 0, 2, 4, 6 and 1, 3, 5, 7, each in the low half of a 64-bit lane
  };
  struct RoundKeys {
    Pair even[kPhiloxRounds], odd[kPhiloxRounds];
  };

  static Vec vec(std::uint32_t value) { return _mm256_set1_epi32(static_cast<int>(value)); }
  static Vec add(Vec a, Vec b) { return _mm256_add_epi32(a, b); }
  static Vec subtract(Vec a, Vec b) { return _mm256_sub_epi32(a, b); }
  static Vec multiply_low(Vec a, Vec b) { return _mm256_mullo_epi32(a, b); }
  static Vec bit_and(Vec a, Vec b) { return _mm256_and_si256(a, b); }
  static Vec bit_or(Vec a, Vec b) { return _mm256_or_si256(a, b); }
  static Vec shift_left(Vec a, int count) { return _mm256_sll_epi32(a, _mm_cvtsi32_si128(count)); }
  static Vec select_below(Vec a, Vec b, Vec yes, Vec no) {
    const Vec not_below = _mm256_cmpeq_epi32(_mm256_max_epu32(a, b), a);
    return _mm256_blendv_epi8(yes, no, not_below);
  }
  static Vec gather(const std::uint32_t* table, Vec index) {
    return _mm256_i32gather_epi32(reinterpret_cast<const int*>(table), index, 4);
  }
  static Vec gather_even(const std::uint32_t* table, Vec index) {
    return _mm256_i32gather_epi32(reinterpret_cast<const int*>(table), index, 8);
  }
  static Vec gather_odd(const std::uint32_t* table, Vec index) { return gather_even(table + 1, index); }
  static void store(std::uint32_t* out, Vec a) { _mm256_store_si256(reinterpret_cast<__m256i*>(out), a); }

  static Pair pair(std::uint32_t value) {
    const __m256i same = _mm256_set1_epi64x(value);
    return {same, same};
  }
  static Pair pair_sequence(std::uint64_t first) {
    const __m256i base = _mm256_set1_epi64x(static_cast<long long>(first));
    return {_mm256_add_epi64(base, _mm256_setr_epi64x(0, 2, 4, 6)),
            _mm256_add_epi64(base, _mm256_setr_epi64x(1, 3, 5, 7))};
  }
  static Pair multiply(Pair a, Pair b) { return {_mm256_mul_epu32(a.even, b.even), _mm256_mul_epu32(a.odd, b.odd)}; }
  static Pair high(Pair a) { return {_mm256_srli_epi64(a.even, 32), _mm256_srli_epi64(a.odd, 32)}; }
  static Pair exclusive_or(Pair a, Pair b, Pair c) {
    return {_mm256_xor_si256(_mm256_xor_si256(a.even, b.even), c.even),
            _mm256_xor_si256(_mm256_xor_si256(a.odd, b.odd), c.odd)};
  }
  static Vec pack_low(Pair a) { return _mm256_blend_epi32(a.even, _mm256_slli_epi64(a.odd, 32), 0b10101010); }
  static Vec pack_high(Pair a) { return _mm256_blend_epi32(_mm256_srli_epi64(a.even, 32), a.odd, 0b10101010); }
};

}  // namespace

Kernels avx2_kernels() noexcept { return {sample_chain<Avx2>, sample_mdp<Avx2>, philox_checksum<Avx2>}; }

}  // namespace trajmill::simd
