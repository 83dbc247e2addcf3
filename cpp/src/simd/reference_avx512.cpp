// The inner loops of the authors' streams, eight 64-bit or sixteen 32-bit numbers to a vector. Compiled with -mavx512f
// and -mavx512ifma.
#include <immintrin.h>

#include "reference_kernels.hpp"

namespace trajmill::simd {
namespace {

constexpr std::uint64_t kLimbMask = (std::uint64_t{1} << 52) - 1;

// Eight 128-bit numbers as limbs of 52, 52 and 24 bits, which is what the multiplier of AVX-512 IFMA takes.
struct Limbs {
  __m512i limb[3];
};

// One 128-bit number in every lane.
Limbs broadcast(Uint128 value) {
  return {_mm512_set1_epi64(static_cast<long long>(static_cast<std::uint64_t>(value) & kLimbMask)),
          _mm512_set1_epi64(static_cast<long long>(static_cast<std::uint64_t>(value >> 52) & kLimbMask)),
          _mm512_set1_epi64(static_cast<long long>(static_cast<std::uint64_t>(value >> 104)))};
}

// a * b + c modulo 2^128. Limbs may hold excess bits above theirs, which the next multiplication does not read; those
// of c must not.
inline __attribute__((always_inline)) Limbs multiply_add(const Limbs& a, const Limbs& b, const Limbs& c) {
  const __m512i zero = _mm512_setzero_si512();
  const __m512i low = _mm512_madd52lo_epu64(c.limb[0], a.limb[0], b.limb[0]);
  __m512i middle = _mm512_madd52hi_epu64(c.limb[1], a.limb[0], b.limb[0]);
  __m512i middle2 = _mm512_madd52lo_epu64(zero, a.limb[0], b.limb[1]);
  middle = _mm512_madd52lo_epu64(middle, a.limb[1], b.limb[0]);
  __m512i high = _mm512_madd52hi_epu64(c.limb[2], a.limb[0], b.limb[1]);
  __m512i high2 = _mm512_madd52hi_epu64(zero, a.limb[1], b.limb[0]);
  high = _mm512_madd52lo_epu64(high, a.limb[0], b.limb[2]);
  high2 = _mm512_madd52lo_epu64(high2, a.limb[2], b.limb[0]);
  high = _mm512_madd52lo_epu64(high, a.limb[1], b.limb[1]);
  middle = _mm512_add_epi64(_mm512_add_epi64(middle, middle2), _mm512_srli_epi64(low, 52));
  high = _mm512_add_epi64(_mm512_add_epi64(high, high2), _mm512_srli_epi64(middle, 52));
  return {low, middle, high};
}

Limbs normalized(const Limbs& a) {
  const __m512i mask = _mm512_set1_epi64(static_cast<long long>(kLimbMask));
  return {_mm512_and_si512(a.limb[0], mask), _mm512_and_si512(a.limb[1], mask), a.limb[2]};
}

// The draws of eight states: Pcg64::output.
inline __attribute__((always_inline)) __m512i output(const Limbs& state) {
  constexpr int kPick = 0xEA, kPickThenXor = 0x6A;  // (a & b) | c and (a & b) ^ c
  const __m512i mask52 = _mm512_set1_epi64(static_cast<long long>(kLimbMask));
  const __m512i mask40 = _mm512_set1_epi64((std::int64_t{1} << 40) - 1);
  const __m512i high = _mm512_ternarylogic_epi64(_mm512_srli_epi64(state.limb[1], 12), mask40,
                                                 _mm512_slli_epi64(state.limb[2], 40), kPick);
  __m512i mixed = _mm512_xor_si512(high, _mm512_slli_epi64(state.limb[1], 52));
  mixed = _mm512_ternarylogic_epi64(state.limb[0], mask52, mixed, kPickThenXor);
  // the rotation is the top six of 128 bits, of which the instruction reads six
  return _mm512_srli_epi64(_mm512_rorv_epi64(mixed, _mm512_srli_epi64(state.limb[2], 18)), 11);
}

// Limbs of the jumps 1 to 16, lane by lane, and of the jump 16.
struct JumpTable {
  alignas(64) std::uint64_t multiplier[2][3][8];
  alignas(64) std::uint64_t sum[2][3][8];
};

constexpr JumpTable make_jump_table() {
  JumpTable table{};
  for (std::size_t lane = 0; lane < kDrawGrain; ++lane) {
    const Jump ahead = jump(lane + 1);
    for (std::size_t k = 0; k < 3; ++k) {
      table.multiplier[lane / 8][k][lane % 8] = static_cast<std::uint64_t>(ahead.multiplier >> (52 * k)) & kLimbMask;
      table.sum[lane / 8][k][lane % 8] = static_cast<std::uint64_t>(ahead.sum >> (52 * k)) & kLimbMask;
    }
  }
  return table;
}

constexpr JumpTable kJumps = make_jump_table();

Limbs load(const std::uint64_t (&limbs)[3][8]) {
  return {_mm512_load_si512(limbs[0]), _mm512_load_si512(limbs[1]), _mm512_load_si512(limbs[2])};
}

void draw(Pcg64& generator, std::uint64_t* draws, std::size_t count) noexcept {
  constexpr Jump kStride = jump(kDrawGrain);
  const Limbs multiplier = broadcast(kStride.multiplier);
  const Limbs increment = broadcast(generator.increment * kStride.sum);
  const Limbs start = broadcast(generator.state);
  const Limbs step = broadcast(generator.increment);
  const auto ahead = [&](int half) {
    return multiply_add(start, load(kJumps.multiplier[half]),
                        normalized(multiply_add(step, load(kJumps.sum[half]), broadcast(0))));
  };
  Limbs even = ahead(0), odd = ahead(1);
  Uint128 last = generator.state;
  for (std::size_t i = 0; i < count; i += kDrawGrain) {
    _mm512_storeu_si512(draws + i, output(even));
    _mm512_storeu_si512(draws + i + 8, output(odd));
    last = last * kStride.multiplier + generator.increment * kStride.sum;
    even = multiply_add(even, multiplier, increment);
    odd = multiply_add(odd, multiplier, increment);
  }
  generator.state = last;
}

std::size_t match(MatchCursor& cursor, const Thresholds* const* rows, std::size_t row_count, const std::uint64_t* draws,
                  std::size_t draw_count, std::uint32_t* hits) noexcept {
  MatchCursor at = cursor;
  std::size_t row = 0;
  for (; row < row_count; ++row) {
    const Thresholds* thresholds = rows[row];
    __mmask8 hit = 0;
    for (; at.draw + Thresholds::kCount <= draw_count; ++at.line, at.draw += Thresholds::kCount) {
      const __m512i difference =
          _mm512_sub_epi64(_mm512_load_si512(thresholds[at.line].value), _mm512_loadu_si512(draws + at.draw));
      hit = _mm512_cmplt_epi64_mask(difference, _mm512_setzero_si512());
      if (hit) break;
    }
    if (!hit) break;
    const auto k = static_cast<std::size_t>(__builtin_ctz(hit));
    const bool is_draw = thresholds[at.line].value[k] != Thresholds::kCertainHit;
    hits[row] = static_cast<std::uint32_t>(at.line * Thresholds::kCount + k);
    at.line = 0;
    at.draw += k + is_draw;
  }
  cursor = at;
  return row;
}

void first_words(const std::uint32_t* seeds, std::uint32_t* first, std::uint32_t* second, std::size_t count) noexcept {
  const __m512i factor = _mm512_set1_epi32(1812433253);
  const auto next = [&](__m512i word, int i) __attribute__((always_inline)) {
    const __m512i mixed = _mm512_xor_si512(word, _mm512_srli_epi32(word, 30));
    return _mm512_add_epi32(_mm512_mullo_epi32(mixed, factor), _mm512_set1_epi32(i));
  };
  const auto twist = [](__m512i current, __m512i following, __m512i far) __attribute__((always_inline)) {
    const __m512i top = _mm512_set1_epi32(static_cast<int>(0x80000000));
    const __m512i y = _mm512_or_si512(_mm512_and_si512(current, top), _mm512_andnot_si512(top, following));
    const __m512i low_bit = _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_and_si512(y, _mm512_set1_epi32(1)));
    __m512i word = _mm512_xor_si512(far, _mm512_srli_epi32(y, 1));
    word = _mm512_xor_si512(word, _mm512_and_si512(low_bit, _mm512_set1_epi32(static_cast<int>(0x9908B0DF))));
    word = _mm512_xor_si512(word, _mm512_srli_epi32(word, 11));
    word = _mm512_xor_si512(
        word, _mm512_and_si512(_mm512_slli_epi32(word, 7), _mm512_set1_epi32(static_cast<int>(0x9D2C5680))));
    word = _mm512_xor_si512(
        word, _mm512_and_si512(_mm512_slli_epi32(word, 15), _mm512_set1_epi32(static_cast<int>(0xEFC60000))));
    return _mm512_xor_si512(word, _mm512_srli_epi32(word, 18));
  };
  constexpr int kVectors = 4;
  for (std::size_t group = 0; group < count; group += 16 * kVectors) {
    __m512i kept[3][kVectors], state[kVectors];
    const int vectors = count - group < 16 * kVectors ? static_cast<int>((count - group) / 16) : kVectors;
    for (int v = 0; v < kVectors; ++v) {
      kept[0][v] = _mm512_loadu_si512(seeds + group + (v < vectors ? 16 * v : 0));
      kept[1][v] = next(kept[0][v], 1);
      kept[2][v] = state[v] = next(kept[1][v], 2);
    }
    for (int i = 3; i <= 397; ++i) {
      for (int v = 0; v < kVectors; ++v) state[v] = next(state[v], i);
    }
    for (int v = 0; v < vectors; ++v) {
      _mm512_storeu_si512(first + group + 16 * v, twist(kept[0][v], kept[1][v], state[v]));
      _mm512_storeu_si512(second + group + 16 * v, twist(kept[1][v], kept[2][v], next(state[v], 398)));
    }
  }
}

}  // namespace

ReferenceKernels reference_avx512_kernels() noexcept { return {draw, match, first_words}; }

}  // namespace trajmill::simd
