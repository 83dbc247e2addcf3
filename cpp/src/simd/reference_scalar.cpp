// The inner loops of the authors' streams in plain C++, and the choice between them and their AVX-512 twins.
#include <algorithm>

#include "reference_kernels.hpp"
#include "trajmill/simd.hpp"

namespace trajmill::simd {
namespace {

bool draw(Pcg64& generator, std::uint64_t* draws, std::size_t count) noexcept {
  Pcg64 local = generator;
  std::uint64_t largest = 0;
  for (std::size_t i = 0; i < count; ++i) largest = std::max(largest, draws[i] = local.next());
  generator = local;
  return largest >= (std::uint64_t{1} << 53) - kTopDraws;
}

std::size_t first_negative(const std::uint64_t* thresholds, const std::uint64_t* draws, std::size_t count) noexcept {
  constexpr std::size_t kTogether = 8;
  for (std::size_t first = 0; first < count; first += kTogether) {
    std::uint64_t any = 0;
    for (std::size_t i = first; i < first + kTogether; ++i) any |= thresholds[i] - draws[i];
    if (!(any >> 63)) continue;
    while (!((thresholds[first] - draws[first]) >> 63)) ++first;
    return first;
  }
  return count;
}

void first_words(const std::uint32_t* seeds, std::uint32_t* first, std::uint32_t* second, std::size_t count) noexcept {
  // Word i of the fresh generator depends on state words i, i + 1 and i + 397 only.
  for (std::size_t group = 0; group < count; group += kDrawGrain) {
    std::uint32_t state[kDrawGrain], kept[4][kDrawGrain];  // kept: words 0, 1, 2 and 397
    std::copy_n(seeds + group, kDrawGrain, state);
    for (std::uint32_t i = 1; i <= 398; ++i) {
      if (const std::uint32_t before = i - 1; before < 3 || before == 397) {
        std::copy_n(state, kDrawGrain, kept[before < 3 ? before : 3]);
      }
      for (std::uint32_t& word : state) word = Mt19937::seed_word(word, i);
    }
    for (std::size_t lane = 0; lane < kDrawGrain; ++lane) {
      first[group + lane] = Mt19937::temper(Mt19937::twist(kept[0][lane], kept[1][lane], kept[3][lane]));
      second[group + lane] = Mt19937::temper(Mt19937::twist(kept[1][lane], kept[2][lane], state[lane]));
    }
  }
}

}  // namespace

ReferenceKernels reference_kernels() {
#if TRAJMILL_X86
  if (simd_level() == SimdLevel::avx512 && __builtin_cpu_supports("avx512ifma")) return reference_avx512_kernels();
#endif
  return {draw, first_negative, first_words};
}

}  // namespace trajmill::simd
