// The samplers with the vectors of neon.hpp.
#include "neon.hpp"

#include "implicit.hpp"

namespace trajmill::simd {

Kernels neon_kernels() noexcept { return kernels_of<Neon>(); }

}  // namespace trajmill::simd
