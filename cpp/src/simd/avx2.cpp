// The samplers with the vectors of avx2.hpp.
#include "avx2.hpp"

#include "implicit.hpp"

namespace trajmill::simd {

Kernels avx2_kernels() noexcept { return kernels_of<Avx2>(); }

}  // namespace trajmill::simd
