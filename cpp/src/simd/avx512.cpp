// Sixteen numbers to a vector. Compiled with -mavx512f.
#include <immintrin.h>

#include "sampling.hpp"

namespace trajmill::simd {
namespace {

struct Avx512 {
  static constexpr std::size_t kLanes = 16;
  static constexpr int kGroups = 4;
  using Vec = __m512i;
  struct Pair {
    __m512i even, odd;  // numbers 0, 2, ... and 1, 3, ..., each in the low half of a 64-bit lane
  };
  struct RoundKeys {
    Pair even[kPhiloxRounds], odd[kPhiloxRounds];
  };

  static constexpr __mmask16 kOdd = 0xAAAA;

  static Vec vec(std::uint32_t value) { return _mm512_set1_epi32(static_cast<int>(value)); }
  static Vec add(Vec a, Vec b) { return _mm512_add_epi32(a, b); }
  static Vec subtract(Vec a, Vec b) { return _mm512_sub_epi32(a, b); }
  static Vec multiply_low(Vec a, Vec b) { return _mm512_mullo_epi32(a, b); }
  static Vec bit_and(Vec a, Vec b) { return _mm512_and_si512(a, b); }
  static Vec bit_or(Vec a, Vec b) { return _mm512_or_si512(a, b); }
  static Vec shift_left(Vec a, int count) { return _mm512_sll_epi32(a, _mm_cvtsi32_si128(count)); }
  static Vec select_below(Vec a, Vec b, Vec yes, Vec no) {
    return _mm512_mask_blend_epi32(_mm512_cmplt_epu32_mask(a, b), no, yes);
  }
  static Vec gather(const std::uint32_t* table, Vec index) { return _mm512_i32gather_epi32(index, table, 4); }
  static Vec gather_even(const std::uint32_t* table, Vec index) { return _mm512_i32gather_epi32(index, table, 8); }
  static Vec gather_odd(const std::uint32_t* table, Vec index) { return gather_even(table + 1, index); }
  static void store(std::uint32_t* out, Vec a) { _mm512_store_si512(out, a); }

  static Pair pair(std::uint32_t value) {
    const __m512i same = _mm512_set1_epi64(value);
    return {same, same};
  }
  static Pair pair_sequence(std::uint64_t first) {
    const __m512i base = _mm512_set1_epi64(static_cast<long long>(first));
    return {_mm512_add_epi64(base, _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14)),
            _mm512_add_epi64(base, _mm512_setr_epi64(1, 3, 5, 7, 9, 11, 13, 15))};
  }
  static Pair multiply(Pair a, Pair b) { return {_mm512_mul_epu32(a.even, b.even), _mm512_mul_epu32(a.odd, b.odd)}; }
  static Pair high(Pair a) { return {_mm512_srli_epi64(a.even, 32), _mm512_srli_epi64(a.odd, 32)}; }
  static Pair exclusive_or(Pair a, Pair b, Pair c) {
    return {_mm512_ternarylogic_epi64(a.even, b.even, c.even, 0x96),
            _mm512_ternarylogic_epi64(a.odd, b.odd, c.odd, 0x96)};
  }
  static Vec pack_low(Pair a) { return _mm512_mask_blend_epi32(kOdd, a.even, _mm512_slli_epi64(a.odd, 32)); }
  static Vec pack_high(Pair a) { return _mm512_mask_blend_epi32(kOdd, _mm512_srli_epi64(a.even, 32), a.odd); }
};

}  // namespace

Kernels avx512_kernels() noexcept { return {sample_chain<Avx512>, sample_mdp<Avx512>, philox_checksum<Avx512>}; }

}  // namespace trajmill::simd
