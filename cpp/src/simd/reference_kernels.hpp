// The inner loops of the authors' streams. The numbers they make do not depend on the instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "trajmill/reference_random.hpp"

namespace trajmill::simd {

// Draws this close to 1, and closer, are reported: NumPy may throw one of them away (one_trial_multinomial).
inline constexpr std::uint64_t kTopDraws = 256;

inline constexpr std::size_t kDrawGrain = 16;  // the kernels count draws and seeds in multiples of this

struct ReferenceKernels {
  // The generator's next `count` draws, a multiple of kDrawGrain; true if one is among the kTopDraws largest.
  bool (*draw)(Pcg64& generator, std::uint64_t* draws, std::size_t count) noexcept;

  // The first i < count, a multiple of 8, at which the sign bit of thresholds[i] - draws[i] is set, or count.
  std::size_t (*first_negative)(const std::uint64_t* thresholds, const std::uint64_t* draws,
                                std::size_t count) noexcept;

  // The first two words of MT19937 under each seed; `count` is a multiple of kDrawGrain.
  void (*first_words)(const std::uint32_t* seeds, std::uint32_t* first, std::uint32_t* second,
                      std::size_t count) noexcept;
};

[[nodiscard]] ReferenceKernels reference_avx512_kernels() noexcept;
[[nodiscard]] ReferenceKernels reference_kernels();  // of the level in use

}  // namespace trajmill::simd
