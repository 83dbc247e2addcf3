// The inner loops of the authors' streams in plain C++, and the choice between them and their AVX-512 twins.
#include "reference_kernels.hpp"
#include "trajmill/simd.hpp"

namespace trajmill::simd {
namespace {

void draw(Pcg64& generator, std::uint64_t* draws, std::size_t count) noexcept {
  constexpr std::size_t kLanes = 2;  // one multiplication need not wait for the last
  constexpr Jump kStride = jump(kLanes);
  const Uint128 stride_increment = generator.increment * kStride.sum;
  Uint128 lane[kLanes];
  for (Uint128& state : lane) state = generator.state = generator.state * Pcg64::kMultiplier + generator.increment;
  for (std::size_t i = 0; i < count; i += kLanes) {
    generator.state = lane[kLanes - 1];
    for (std::size_t k = 0; k < kLanes; ++k) {
      draws[i + k] = Pcg64::output(lane[k]);
      lane[k] = lane[k] * kStride.multiplier + stride_increment;
    }
  }
}

std::size_t match(MatchCursor& cursor, const Thresholds* const* rows, std::size_t row_count, const std::uint64_t* draws,
                  std::size_t draw_count, std::uint32_t* hits) noexcept {
  for (std::size_t row = 0; row < row_count; ++row) {
    for (;; ++cursor.line, cursor.draw += Thresholds::kCount) {
      if (cursor.draw + Thresholds::kCount > draw_count) return row;
      const std::uint64_t* thresholds = rows[row][cursor.line].value;
      std::uint64_t difference[Thresholds::kCount], any = 0;
      for (std::size_t k = 0; k < Thresholds::kCount; ++k)
        any |= difference[k] = thresholds[k] - draws[cursor.draw + k];
      if (!(any >> 63)) continue;
      std::size_t k = 0;
      while (!(difference[k] >> 63)) ++k;
      hits[row] = static_cast<std::uint32_t>(cursor.line * Thresholds::kCount + k);
      cursor.draw += k;
      if (thresholds[k] != Thresholds::kCertainHit) ++cursor.draw;
      break;
    }
    cursor.line = 0;
  }
  return row_count;
}

void first_words(const std::uint32_t* seeds, std::uint32_t* first, std::uint32_t* second, std::size_t count) noexcept {
  // Output i depends on words i, i + 1 and i + 397 of the state alone.
  constexpr std::uint32_t kFar = Mt19937::kFar;
  for (std::size_t group = 0; group < count; group += kDrawGrain) {
    std::uint32_t word0[kDrawGrain], word1[kDrawGrain], word2[kDrawGrain], far[kDrawGrain];
    for (std::size_t k = 0; k < kDrawGrain; ++k) {
      word0[k] = seeds[group + k];
      word1[k] = Mt19937::seed_word(word0[k], 1);
      word2[k] = far[k] = Mt19937::seed_word(word1[k], 2);
    }
    for (std::uint32_t i = 3; i <= kFar; ++i) {
      for (std::uint32_t& word : far) word = Mt19937::seed_word(word, i);
    }
    for (std::size_t k = 0; k < kDrawGrain; ++k) {
      const std::uint32_t farther = Mt19937::seed_word(far[k], kFar + 1);
      first[group + k] = Mt19937::temper(Mt19937::twist(word0[k], word1[k], far[k]));
      second[group + k] = Mt19937::temper(Mt19937::twist(word1[k], word2[k], farther));
    }
  }
}

}  // namespace

ReferenceKernels reference_kernels() {
#if TRAJMILL_X86
  if (simd_level() == SimdLevel::avx512 && __builtin_cpu_supports("avx512ifma")) return reference_avx512_kernels();
#endif
  return {draw, match, first_words};
}

}  // namespace trajmill::simd
