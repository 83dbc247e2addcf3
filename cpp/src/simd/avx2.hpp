// Eight numbers to a vector. Compiled with -mavx2.
#pragma once

#include <immintrin.h>

#include "kernels.hpp"

namespace trajmill::simd {
namespace {

struct Avx2 {
  static constexpr std::size_t kLanes = 8;
  static constexpr int kGroups = 4, kMDPGroups = 3, kImplicitGroups = 3;
  static constexpr bool kTransposes = false;  // then write_transposed is not asked for
  using Vec = __m256i;
  using Half = __m256i;
  struct Pair {
    __m256i even, odd;  // numbers 0, 2, 4, 6 and 1, 3, 5, 7
  };
  struct Mask {
    __m256i lanes;  // all bits of a number, or none
  };

  static constexpr int kOdd = 0b10101010;

  static Vec vec(std::uint32_t value) { return _mm256_set1_epi32(static_cast<int>(value)); }
  static Vec load(const std::uint32_t* from) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(from)); }
  static void store(std::uint32_t* out, Vec a) { _mm256_store_si256(reinterpret_cast<__m256i*>(out), a); }
  static Vec add(Vec a, Vec b) { return _mm256_add_epi32(a, b); }
  static Vec subtract(Vec a, Vec b) { return _mm256_sub_epi32(a, b); }
  static Vec multiply_low(Vec a, Vec b) { return _mm256_mullo_epi32(a, b); }
  static Vec bit_and(Vec a, Vec b) { return _mm256_and_si256(a, b); }
  static Vec bit_or(Vec a, Vec b) { return _mm256_or_si256(a, b); }
  template <int count>
  static Vec shift_left(Vec a) {
    return _mm256_slli_epi32(a, count);
  }
  template <int count>
  static Vec shift_right(Vec a) {
    return _mm256_srli_epi32(a, count);
  }
  static Vec shift_left(Vec a, Vec counts) { return _mm256_sllv_epi32(a, counts); }
  static Vec shift_right(Vec a, Vec counts) { return _mm256_srlv_epi32(a, counts); }
  static Vec gather(const std::uint32_t* table, Vec index) {
    return _mm256_i32gather_epi32(reinterpret_cast<const int*>(table), index, 4);
  }
  static void scatter(std::uint32_t* table, Vec index, Vec value) {
    alignas(64) std::uint32_t at[kLanes], values[kLanes];
    store(at, index), store(values, value);
    for (std::size_t lane = 0; lane < kLanes; ++lane) table[at[lane]] = values[lane];
  }
  static Vec gather_even(const std::uint32_t* table, Vec index) {
    return _mm256_i32gather_epi32(reinterpret_cast<const int*>(table), index, 8);
  }
  static Vec gather_odd(const std::uint32_t* table, Vec index) { return gather_even(table + 1, index); }

  static Mask below(Vec a, Vec b) {  // unsigned: shifted to the signed comparison there is
    const Vec bias = vec(0x80000000);
    return {_mm256_cmpgt_epi32(_mm256_xor_si256(b, bias), _mm256_xor_si256(a, bias))};
  }
  static Mask equal(Vec a, Vec b) { return {_mm256_cmpeq_epi32(a, b)}; }
  static Mask test(Vec a, Vec bit) { return equal(bit_and(a, bit), bit); }
  static Mask both(Mask a, Mask b) { return {_mm256_and_si256(a.lanes, b.lanes)}; }
  static Mask either(Mask a, Mask b) { return {_mm256_or_si256(a.lanes, b.lanes)}; }
  static Mask neither(Mask a, Mask b) { return {_mm256_xor_si256(either(a, b).lanes, vec(0xFFFFFFFF))}; }
  static Vec select(Mask mask, Vec yes, Vec no) { return _mm256_blendv_epi8(no, yes, mask.lanes); }
  static std::uint32_t bits(Mask mask) {
    return static_cast<std::uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(mask.lanes)));
  }

  // How many of sixteen numbers in ascending order are at most `word`; not all of them.
  static std::uint32_t count_at_most(const std::uint32_t* sixteen, std::uint32_t word) {
    const Vec limit = vec(word);
    const auto passed = [&](int k) {
      return _mm256_cmpeq_epi32(_mm256_max_epu32(load(sixteen + 8 * k), limit), limit);
    };
    const auto bits_of = [](Vec a) { return static_cast<std::uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(a))); };
    return static_cast<std::uint32_t>(__builtin_ctz(~(bits_of(passed(0)) | bits_of(passed(1)) << 8)));
  }

  static Half half(std::uint32_t value) { return _mm256_set1_epi64x(value); }
  static Pair same(Half value) { return {value, value}; }
  static Pair spread(Vec a) { return {a, _mm256_srli_epi64(a, 32)}; }
  static Pair join(Vec low, Vec high) {
    return {_mm256_blend_epi32(low, _mm256_slli_epi64(high, 32), kOdd),
            _mm256_blend_epi32(_mm256_srli_epi64(low, 32), high, kOdd)};
  }
  static Pair add(Pair a, Pair b) { return {_mm256_add_epi64(a.even, b.even), _mm256_add_epi64(a.odd, b.odd)}; }
  static Pair add(Pair a, Half b) { return add(a, same(b)); }
  static Pair subtract(Pair a, Pair b) { return {_mm256_sub_epi64(a.even, b.even), _mm256_sub_epi64(a.odd, b.odd)}; }
  static Pair multiply(Pair a, Pair b) { return {_mm256_mul_epu32(a.even, b.even), _mm256_mul_epu32(a.odd, b.odd)}; }
  static Pair multiply(Pair a, Half b) { return multiply(a, same(b)); }
  static Pair high(Pair a) { return {_mm256_srli_epi64(a.even, 32), _mm256_srli_epi64(a.odd, 32)}; }
  static Pair to_high(Pair a) { return {_mm256_slli_epi64(a.even, 32), _mm256_slli_epi64(a.odd, 32)}; }
  static Pair exclusive_or(Pair a, Half b) { return {_mm256_xor_si256(a.even, b), _mm256_xor_si256(a.odd, b)}; }
  static Pair exclusive_or(Pair a, Pair b, Pair c) {
    return {_mm256_xor_si256(_mm256_xor_si256(a.even, b.even), c.even),
            _mm256_xor_si256(_mm256_xor_si256(a.odd, b.odd), c.odd)};
  }
  static Pair exclusive_or(Pair a, Pair b, Half c) { return exclusive_or(a, b, same(c)); }
  static Vec pack_low(Pair a) { return _mm256_blend_epi32(a.even, _mm256_slli_epi64(a.odd, 32), kOdd); }
  static Vec pack_high(Pair a) { return _mm256_blend_epi32(_mm256_srli_epi64(a.even, 32), a.odd, kOdd); }
};

}  // namespace
}  // namespace trajmill::simd
