// Four numbers to a vector. Compiled with -msse4.1.
#pragma once

#include <smmintrin.h>

#include "kernels.hpp"

namespace trajmill::simd {
namespace {

struct Sse4 {
  static constexpr std::size_t kLanes = 4;
  static constexpr int kGroups = 4, kMDPGroups = 2, kImplicitGroups = 2;
  static constexpr bool kTransposes = false;  // then write_transposed is not asked for
  using Vec = __m128i;
  using Half = __m128i;
  struct Pair {
    __m128i even, odd;  // numbers 0, 2 and 1, 3
  };
  struct Mask {
    __m128i lanes;  // all bits of a number, or none
  };

  static constexpr int kOdd = 0b11001100;  // in 16-bit parts

  static Vec vec(std::uint32_t value) { return _mm_set1_epi32(static_cast<int>(value)); }
  static Vec load(const std::uint32_t* from) { return _mm_load_si128(reinterpret_cast<const __m128i*>(from)); }
  static void store(std::uint32_t* out, Vec a) { _mm_store_si128(reinterpret_cast<__m128i*>(out), a); }
  static Vec add(Vec a, Vec b) { return _mm_add_epi32(a, b); }
  static Vec subtract(Vec a, Vec b) { return _mm_sub_epi32(a, b); }
  static Vec multiply_low(Vec a, Vec b) { return _mm_mullo_epi32(a, b); }
  static Vec bit_and(Vec a, Vec b) { return _mm_and_si128(a, b); }
  static Vec bit_or(Vec a, Vec b) { return _mm_or_si128(a, b); }
  template <int count>
  static Vec shift_left(Vec a) {
    return _mm_slli_epi32(a, count);
  }
  template <int count>
  static Vec shift_right(Vec a) {
    return _mm_srli_epi32(a, count);
  }
  static Vec shift_left(Vec a, Vec counts) {
    alignas(64) std::uint32_t values[kLanes], by[kLanes];
    store(values, a), store(by, counts);
    for (std::size_t lane = 0; lane < kLanes; ++lane) values[lane] <<= by[lane];
    return load(values);
  }
  static Vec shift_right(Vec a, Vec counts) {
    alignas(64) std::uint32_t values[kLanes], by[kLanes];
    store(values, a), store(by, counts);
    for (std::size_t lane = 0; lane < kLanes; ++lane) values[lane] >>= by[lane];
    return load(values);
  }
  static Vec gather(const std::uint32_t* table, Vec index) { return look_up<1>(table, index); }
  static void scatter(std::uint32_t* table, Vec index, Vec value) {
    alignas(64) std::uint32_t at[kLanes], values[kLanes];
    store(at, index), store(values, value);
    for (std::size_t lane = 0; lane < kLanes; ++lane) table[at[lane]] = values[lane];
  }
  static Vec gather_even(const std::uint32_t* table, Vec index) { return look_up<2>(table, index); }
  static Vec gather_odd(const std::uint32_t* table, Vec index) { return look_up<2>(table + 1, index); }

  static Mask below(Vec a, Vec b) {  // unsigned: shifted to the signed comparison there is
    const Vec bias = vec(0x80000000);
    return {_mm_cmplt_epi32(_mm_xor_si128(a, bias), _mm_xor_si128(b, bias))};
  }
  static Mask equal(Vec a, Vec b) { return {_mm_cmpeq_epi32(a, b)}; }
  static Mask test(Vec a, Vec bit) { return equal(bit_and(a, bit), bit); }
  static Mask both(Mask a, Mask b) { return {_mm_and_si128(a.lanes, b.lanes)}; }
  static Mask either(Mask a, Mask b) { return {_mm_or_si128(a.lanes, b.lanes)}; }
  static Mask neither(Mask a, Mask b) { return {_mm_xor_si128(either(a, b).lanes, vec(0xFFFFFFFF))}; }
  static Vec select(Mask mask, Vec yes, Vec no) { return _mm_blendv_epi8(no, yes, mask.lanes); }
  static std::uint32_t bits(Mask mask) {
    return static_cast<std::uint32_t>(_mm_movemask_ps(_mm_castsi128_ps(mask.lanes)));
  }

  // How many of sixteen numbers in ascending order are at most `word`; not all of them.
  static std::uint32_t count_at_most(const std::uint32_t* sixteen, std::uint32_t word) {
    const Vec limit = vec(word);
    const auto passed = [&](int k) { return _mm_cmpeq_epi32(_mm_max_epu32(load(sixteen + 4 * k), limit), limit); };
    const Vec bytes = _mm_packs_epi16(_mm_packs_epi32(passed(0), passed(1)), _mm_packs_epi32(passed(2), passed(3)));
    return static_cast<std::uint32_t>(__builtin_ctz(~static_cast<std::uint32_t>(_mm_movemask_epi8(bytes))));
  }

  static Half half(std::uint32_t value) { return _mm_set1_epi64x(value); }
  static Pair same(Half value) { return {value, value}; }
  static Pair spread(Vec a) { return {a, _mm_srli_epi64(a, 32)}; }
  static Pair join(Vec low, Vec high) {
    return {_mm_blend_epi16(low, _mm_slli_epi64(high, 32), kOdd), _mm_blend_epi16(_mm_srli_epi64(low, 32), high, kOdd)};
  }
  static Pair add(Pair a, Pair b) { return {_mm_add_epi64(a.even, b.even), _mm_add_epi64(a.odd, b.odd)}; }
  static Pair add(Pair a, Half b) { return add(a, same(b)); }
  static Pair subtract(Pair a, Pair b) { return {_mm_sub_epi64(a.even, b.even), _mm_sub_epi64(a.odd, b.odd)}; }
  static Pair multiply(Pair a, Pair b) { return {_mm_mul_epu32(a.even, b.even), _mm_mul_epu32(a.odd, b.odd)}; }
  static Pair multiply(Pair a, Half b) { return multiply(a, same(b)); }
  static Pair high(Pair a) { return {_mm_srli_epi64(a.even, 32), _mm_srli_epi64(a.odd, 32)}; }
  static Pair to_high(Pair a) { return {_mm_slli_epi64(a.even, 32), _mm_slli_epi64(a.odd, 32)}; }
  static Pair exclusive_or(Pair a, Half b) { return {_mm_xor_si128(a.even, b), _mm_xor_si128(a.odd, b)}; }
  static Pair exclusive_or(Pair a, Pair b, Pair c) {
    return {_mm_xor_si128(_mm_xor_si128(a.even, b.even), c.even), _mm_xor_si128(_mm_xor_si128(a.odd, b.odd), c.odd)};
  }
  static Pair exclusive_or(Pair a, Pair b, Half c) { return exclusive_or(a, b, same(c)); }
  static Vec pack_low(Pair a) { return _mm_blend_epi16(a.even, _mm_slli_epi64(a.odd, 32), kOdd); }
  static Vec pack_high(Pair a) { return _mm_blend_epi16(_mm_srli_epi64(a.even, 32), a.odd, kOdd); }

 private:
  template <std::size_t stride>
  static Vec look_up(const std::uint32_t* table, Vec index) {
    const auto at = [&](int lane) { return static_cast<int>(table[stride * static_cast<std::uint32_t>(lane)]); };
    return _mm_setr_epi32(at(_mm_cvtsi128_si32(index)), at(_mm_extract_epi32(index, 1)),
                          at(_mm_extract_epi32(index, 2)), at(_mm_extract_epi32(index, 3)));
  }
};

}  // namespace
}  // namespace trajmill::simd
