// Which instruction set the kernels use. The bytes they make do not depend on it.
#pragma once

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

}  // namespace trajmill
