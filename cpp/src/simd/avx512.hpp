// Sixteen numbers to a vector. Compiled with -mavx512f.
#pragma once

#include <immintrin.h>

#include "kernels.hpp"

namespace trajmill::simd {
namespace {

struct Avx512 {
  static constexpr std::size_t kLanes = 16;
  static constexpr int kGroups = 4, kMDPGroups = 2, kImplicitGroups = 2;
  static constexpr bool kTransposes = true;
  using Vec = __m512i;
  using Half = __m512i;
  struct Pair {
    __m512i even, odd;  // numbers 0, 2, ... and 1, 3, ...
  };
  using Mask = __mmask16;

  static constexpr __mmask16 kEven = 0x5555, kOdd = 0xAAAA;
  static constexpr int kExclusiveOr = 0x96;

  static Vec vec(std::uint32_t value) { return _mm512_set1_epi32(static_cast<int>(value)); }
  static Vec load(const std::uint32_t* from) { return _mm512_load_si512(from); }
  static void store(std::uint32_t* out, Vec a) { _mm512_store_si512(out, a); }
  static Vec add(Vec a, Vec b) { return _mm512_add_epi32(a, b); }
  static Vec subtract(Vec a, Vec b) { return _mm512_sub_epi32(a, b); }
  static Vec multiply_low(Vec a, Vec b) { return _mm512_mullo_epi32(a, b); }
  static Vec bit_and(Vec a, Vec b) { return _mm512_and_si512(a, b); }
  static Vec bit_or(Vec a, Vec b) { return _mm512_or_si512(a, b); }
  template <int count>
  static Vec shift_left(Vec a) {
    return _mm512_slli_epi32(a, count);
  }
  template <int count>
  static Vec shift_right(Vec a) {
    return _mm512_srli_epi32(a, count);
  }
  static Vec shift_left(Vec a, Vec counts) { return _mm512_sllv_epi32(a, counts); }
  static Vec shift_right(Vec a, Vec counts) { return _mm512_srlv_epi32(a, counts); }
  static Vec gather(const std::uint32_t* table, Vec index) { return _mm512_i32gather_epi32(index, table, 4); }
  static void scatter(std::uint32_t* table, Vec index, Vec value) { _mm512_i32scatter_epi32(table, index, value, 4); }
  static Vec gather_even(const std::uint32_t* table, Vec index) { return _mm512_i32gather_epi32(index, table, 8); }
  static Vec gather_odd(const std::uint32_t* table, Vec index) { return gather_even(table + 1, index); }

  static Mask below(Vec a, Vec b) { return _mm512_cmplt_epu32_mask(a, b); }
  static Mask equal(Vec a, Vec b) { return _mm512_cmpeq_epi32_mask(a, b); }
  static Mask test(Vec a, Vec bit) { return _mm512_test_epi32_mask(a, bit); }
  static Mask both(Mask a, Mask b) { return static_cast<Mask>(a & b); }
  static Mask either(Mask a, Mask b) { return static_cast<Mask>(a | b); }
  static Mask neither(Mask a, Mask b) { return static_cast<Mask>(~(a | b)); }
  static Vec select(Mask mask, Vec yes, Vec no) { return _mm512_mask_blend_epi32(mask, no, yes); }
  static std::uint32_t bits(Mask mask) { return mask; }

  // How many of sixteen numbers in ascending order are at most `word`; not all of them.
  static std::uint64_t count_at_most(const std::uint32_t* sixteen, std::uint32_t word) {
    std::uint64_t count = _mm512_cmpge_epu32_mask(vec(word), load(sixteen));
    asm("popcnt %0, %0" : "+r"(count));  // GCC 12 would widen a mask before it counts, and the count after it
    return count;
  }

  static Half half(std::uint32_t value) { return _mm512_set1_epi64(value); }
  static Pair same(Half value) { return {value, value}; }
  static Pair spread(Vec a) { return {a, _mm512_srli_epi64(a, 32)}; }
  static Pair join(Vec low, Vec high) {
    return {_mm512_mask_shuffle_epi32(low, kOdd, high, _MM_PERM_CCAA),
            _mm512_mask_shuffle_epi32(high, kEven, low, _MM_PERM_DDBB)};
  }
  static Pair add(Pair a, Pair b) { return {_mm512_add_epi64(a.even, b.even), _mm512_add_epi64(a.odd, b.odd)}; }
  static Pair add(Pair a, Half b) { return add(a, same(b)); }
  static Pair subtract(Pair a, Pair b) { return {_mm512_sub_epi64(a.even, b.even), _mm512_sub_epi64(a.odd, b.odd)}; }
  static Pair multiply(Pair a, Pair b) { return {_mm512_mul_epu32(a.even, b.even), _mm512_mul_epu32(a.odd, b.odd)}; }
  static Pair multiply(Pair a, Half b) { return multiply(a, same(b)); }
  static Pair high(Pair a) { return {_mm512_srli_epi64(a.even, 32), _mm512_srli_epi64(a.odd, 32)}; }
  static Pair to_high(Pair a) { return {_mm512_slli_epi64(a.even, 32), _mm512_slli_epi64(a.odd, 32)}; }
  static Pair exclusive_or(Pair a, Half b) { return {_mm512_xor_si512(a.even, b), _mm512_xor_si512(a.odd, b)}; }
  static Pair exclusive_or(Pair a, Pair b, Pair c) {
    return {_mm512_ternarylogic_epi64(a.even, b.even, c.even, kExclusiveOr),
            _mm512_ternarylogic_epi64(a.odd, b.odd, c.odd, kExclusiveOr)};
  }
  static Pair exclusive_or(Pair a, Pair b, Half c) { return exclusive_or(a, b, same(c)); }
  // Sixteen rows of sixteen numbers, `stride` apart: appends those of each column that are not kNoValue to its list, of
  // which there is one every `capacity` numbers.
  static void sift(const std::uint32_t* rows, std::size_t stride, std::uint32_t* lists, std::size_t capacity,
                   std::uint32_t* counts) {
    Vec column[16];
    for (int k = 0; k < 16; ++k) column[k] = load(rows + static_cast<std::size_t>(k) * stride);
    transpose(column);
    for (int k = 0; k < 16; ++k) {
      const __mmask16 accepted = _mm512_cmpneq_epi32_mask(column[k], vec(kNoValue));
      _mm512_storeu_si512(lists + static_cast<std::size_t>(k) * capacity + counts[k],
                          _mm512_maskz_compress_epi32(accepted, column[k]));
      counts[k] += static_cast<std::uint32_t>(__builtin_popcount(accepted));
    }
  }

  // Writes sixteen rows of sixteen numbers, `stride` apart, as columns: each one as numbers of type T, `row_bytes`
  // apart.
  template <class T>
  static void write_transposed(const std::uint32_t* rows, std::size_t stride, std::byte* out, std::size_t row_bytes) {
    Vec column[16];
    for (int k = 0; k < 16; ++k) column[k] = load(rows + static_cast<std::size_t>(k) * stride);
    transpose(column);
    for (int k = 0; k < 16; ++k, out += row_bytes) {
      if constexpr (sizeof(T) == 2) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm512_cvtepi32_epi16(column[k]));
      } else {
        _mm512_storeu_si512(out, column[k]);
      }
    }
  }

  static Vec pack_low(Pair a) { return _mm512_mask_shuffle_epi32(a.even, kOdd, a.odd, _MM_PERM_CCAA); }
  static Vec pack_high(Pair a) { return _mm512_mask_shuffle_epi32(a.odd, kEven, a.even, _MM_PERM_DDBB); }

  static void transpose(Vec (&a)[16]) {
    Vec b[16];
    for (int k = 0; k < 16; k += 2) {  // pairs of numbers
      b[k] = _mm512_unpacklo_epi32(a[k], a[k + 1]);
      b[k + 1] = _mm512_unpackhi_epi32(a[k], a[k + 1]);
    }
    for (int k = 0; k < 16; k += 4) {  // fours
      a[k] = _mm512_unpacklo_epi64(b[k], b[k + 2]);
      a[k + 1] = _mm512_unpackhi_epi64(b[k], b[k + 2]);
      a[k + 2] = _mm512_unpacklo_epi64(b[k + 1], b[k + 3]);
      a[k + 3] = _mm512_unpackhi_epi64(b[k + 1], b[k + 3]);
    }
    for (int k = 0; k < 4; ++k) {  // eights: columns k, k + 8 and k + 4, k + 12 in alternate quarters
      b[k] = _mm512_shuffle_i32x4(a[k], a[k + 4], 0x88);
      b[k + 4] = _mm512_shuffle_i32x4(a[k], a[k + 4], 0xDD);
      b[k + 8] = _mm512_shuffle_i32x4(a[k + 8], a[k + 12], 0x88);
      b[k + 12] = _mm512_shuffle_i32x4(a[k + 8], a[k + 12], 0xDD);
    }
    for (int k = 0; k < 8; ++k) {
      a[k] = _mm512_shuffle_i32x4(b[k], b[k + 8], 0x88);
      a[k + 8] = _mm512_shuffle_i32x4(b[k], b[k + 8], 0xDD);
    }
  }
};

}  // namespace
}  // namespace trajmill::simd
