// The inner loops of the authors' streams. The numbers they make do not depend on the instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "trajmill/reference_random.hpp"

namespace trajmill::simd {

// What takes a generator n draws on: state * multiplier + increment * sum.
struct Jump {
  Uint128 multiplier = 1;
  Uint128 sum = 0;
};

constexpr Jump jump(std::size_t draws) {
  Jump result;
  for (std::size_t i = 0; i < draws; ++i) {
    result.sum = result.sum * Pcg64::kMultiplier + 1;
    result.multiplier *= Pcg64::kMultiplier;
  }
  return result;
}

// Thresholds of a row, eight to a cache line. A draw u below 2^53 hits where the sign bit of threshold - u is set. The
// row's last threshold, and what fills its last line, is kCertainHit, which stands for no draw.
struct alignas(64) Thresholds {
  static constexpr std::size_t kCount = 8;
  static constexpr std::uint64_t kCertainHit = ~std::uint64_t{0};
  std::uint64_t value[kCount];
};

// Where matching stands: the next draw, and the next line of thresholds of the row at hand.
struct MatchCursor {
  std::size_t draw = 0;
  std::size_t line = 0;
};

inline constexpr std::size_t kDrawGrain = 16;  // draws and seeds are counted in multiples of this

struct ReferenceKernels {
  // The generator's next `count` draws, a multiple of kDrawGrain.
  void (*draw)(Pcg64& generator, std::uint64_t* draws, std::size_t count) noexcept;

  // For one row after another, the index of the first threshold that its draws hit. Returns how many of `row_count`
  // rows were done before the draws, `draw_count` of them, ran short.
  std::size_t (*match)(MatchCursor& cursor, const Thresholds* const* rows, std::size_t row_count,
                       const std::uint64_t* draws, std::size_t draw_count, std::uint32_t* hits) noexcept;

  // The first two words of MT19937 under each seed; `count` is a multiple of kDrawGrain.
  void (*first_words)(const std::uint32_t* seeds, std::uint32_t* first, std::uint32_t* second,
                      std::size_t count) noexcept;
};

[[nodiscard]] ReferenceKernels reference_avx512_kernels() noexcept;
[[nodiscard]] ReferenceKernels reference_kernels();  // of the level in use

}  // namespace trajmill::simd
