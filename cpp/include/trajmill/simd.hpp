// Which instruction set the kernels use. The bytes they make do not depend on it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace trajmill {

enum class SimdLevel { scalar, sse4, avx2, avx512, neon };

[[nodiscard]] std::string_view name(SimdLevel level) noexcept;
// Throws std::invalid_argument for a name of no level; `what` is what the message calls the name.
[[nodiscard]] SimdLevel simd_level_from_name(std::string_view what, std::string_view name);

// Levels that this build holds and this processor runs, slowest first; never empty.
[[nodiscard]] std::vector<SimdLevel> available_simd_levels();

// The level in use: the fastest available, unless the environment variable TRAJMILL_SIMD or set_simd_level says
// otherwise. Both throw std::invalid_argument for a level that is not available.
[[nodiscard]] SimdLevel simd_level();
void set_simd_level(SimdLevel level);

// The exclusive or of the first `block_count` Philox blocks' words of sequences [0, sequence_count) under `key`, by the
// kernel of the level in use: what the generator alone costs.
[[nodiscard]] std::uint32_t philox_checksum(std::uint64_t key, std::size_t sequence_count, std::uint32_t block_count);

// The sum of about `lookup_count` look-ups in `table`, at places known beforehand: what look-ups alone cost.
[[nodiscard]] std::uint32_t lookup_checksum(std::span<const std::uint32_t> table, std::size_t lookup_count);

}  // namespace trajmill
