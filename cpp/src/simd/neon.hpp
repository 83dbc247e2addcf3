// Four numbers to a vector, on 64-bit Arm.
#pragma once

#include <arm_neon.h>

#include "kernels.hpp"

namespace trajmill::simd {
namespace {

struct Neon {
  static constexpr std::size_t kLanes = 4;
  static constexpr int kGroups = 4, kMDPGroups = 2, kImplicitGroups = 2;
  static constexpr bool kTransposes = false;  // then write_transposed is not asked for
  using Vec = uint32x4_t;
  using Half = uint64x2_t;
  struct Pair {
    uint64x2_t even, odd;  // numbers 0, 2 and 1, 3
  };
  struct Mask {
    uint32x4_t lanes;  // all bits of a number, or none
  };

  static Vec vec(std::uint32_t value) { return vdupq_n_u32(value); }
  static Vec load(const std::uint32_t* from) { return vld1q_u32(from); }
  static void store(std::uint32_t* out, Vec a) { vst1q_u32(out, a); }
  static Vec add(Vec a, Vec b) { return vaddq_u32(a, b); }
  static Vec subtract(Vec a, Vec b) { return vsubq_u32(a, b); }
  static Vec multiply_low(Vec a, Vec b) { return vmulq_u32(a, b); }
  static Vec bit_and(Vec a, Vec b) { return vandq_u32(a, b); }
  static Vec bit_or(Vec a, Vec b) { return vorrq_u32(a, b); }
  template <int count>
  static Vec shift_left(Vec a) {
    return vshlq_n_u32(a, count);
  }
  template <int count>
  static Vec shift_right(Vec a) {
    return vshrq_n_u32(a, count);
  }
  static Vec shift_left(Vec a, Vec counts) { return vshlq_u32(a, vreinterpretq_s32_u32(counts)); }
  static Vec shift_right(Vec a, Vec counts) { return vshlq_u32(a, vnegq_s32(vreinterpretq_s32_u32(counts))); }
  static Vec gather(const std::uint32_t* table, Vec index) { return look_up<1>(table, index); }
  static void scatter(std::uint32_t* table, Vec index, Vec value) {
    alignas(64) std::uint32_t at[kLanes], values[kLanes];
    store(at, index), store(values, value);
    for (std::size_t lane = 0; lane < kLanes; ++lane) table[at[lane]] = values[lane];
  }
  static Vec gather_even(const std::uint32_t* table, Vec index) { return look_up<2>(table, index); }
  static Vec gather_odd(const std::uint32_t* table, Vec index) { return look_up<2>(table + 1, index); }

  static Mask below(Vec a, Vec b) { return {vcltq_u32(a, b)}; }
  static Mask equal(Vec a, Vec b) { return {vceqq_u32(a, b)}; }
  static Mask test(Vec a, Vec bit) { return {vtstq_u32(a, bit)}; }
  static Mask both(Mask a, Mask b) { return {vandq_u32(a.lanes, b.lanes)}; }
  static Mask either(Mask a, Mask b) { return {vorrq_u32(a.lanes, b.lanes)}; }
  static Mask neither(Mask a, Mask b) { return {vmvnq_u32(either(a, b).lanes)}; }
  static Vec select(Mask mask, Vec yes, Vec no) { return vbslq_u32(mask.lanes, yes, no); }
  static std::uint32_t bits(Mask mask) {
    const std::uint32_t weights[] = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(mask.lanes, vld1q_u32(weights)));
  }

  // How many of sixteen numbers in ascending order are at most `word`; not all of them.
  static std::uint32_t count_at_most(const std::uint32_t* sixteen, std::uint32_t word) {
    Vec passed = vdupq_n_u32(0);
    for (int k = 0; k < 4; ++k) passed = vaddq_u32(passed, vcgeq_u32(vdupq_n_u32(word), vld1q_u32(sixteen + 4 * k)));
    return 0u - vaddvq_u32(passed);
  }

  static Half half(std::uint32_t value) { return vdupq_n_u64(value); }
  static Pair same(Half value) { return {value, value}; }
  static Pair spread(Vec a) { return {words(a), vshrq_n_u64(words(a), 32)}; }
  static Pair join(Vec low, Vec high) { return {words(vtrn1q_u32(low, high)), words(vtrn2q_u32(low, high))}; }
  static Pair add(Pair a, Pair b) { return {vaddq_u64(a.even, b.even), vaddq_u64(a.odd, b.odd)}; }
  static Pair add(Pair a, Half b) { return add(a, same(b)); }
  static Pair subtract(Pair a, Pair b) { return {vsubq_u64(a.even, b.even), vsubq_u64(a.odd, b.odd)}; }
  static Pair multiply(Pair a, Pair b) {
    return {vmull_u32(vmovn_u64(a.even), vmovn_u64(b.even)), vmull_u32(vmovn_u64(a.odd), vmovn_u64(b.odd))};
  }
  static Pair multiply(Pair a, Half b) { return multiply(a, same(b)); }
  static Pair high(Pair a) { return {vshrq_n_u64(a.even, 32), vshrq_n_u64(a.odd, 32)}; }
  static Pair to_high(Pair a) { return {vshlq_n_u64(a.even, 32), vshlq_n_u64(a.odd, 32)}; }
  static Pair exclusive_or(Pair a, Half b) { return {veorq_u64(a.even, b), veorq_u64(a.odd, b)}; }
  static Pair exclusive_or(Pair a, Pair b, Pair c) {
    return {veorq_u64(veorq_u64(a.even, b.even), c.even), veorq_u64(veorq_u64(a.odd, b.odd), c.odd)};
  }
  static Pair exclusive_or(Pair a, Pair b, Half c) { return exclusive_or(a, b, same(c)); }
  static Vec pack_low(Pair a) { return vtrn1q_u32(numbers(a.even), numbers(a.odd)); }
  static Vec pack_high(Pair a) { return vtrn2q_u32(numbers(a.even), numbers(a.odd)); }

 private:
  static uint64x2_t words(Vec a) { return vreinterpretq_u64_u32(a); }
  static Vec numbers(uint64x2_t a) { return vreinterpretq_u32_u64(a); }

  template <std::size_t stride>
  static Vec look_up(const std::uint32_t* table, Vec index) {
    Vec found = vdupq_n_u32(table[stride * vgetq_lane_u32(index, 0)]);
    found = vsetq_lane_u32(table[stride * vgetq_lane_u32(index, 1)], found, 1);
    found = vsetq_lane_u32(table[stride * vgetq_lane_u32(index, 2)], found, 2);
    return vsetq_lane_u32(table[stride * vgetq_lane_u32(index, 3)], found, 3);
  }
};

}  // namespace
}  // namespace trajmill::simd
