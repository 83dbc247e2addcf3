// The samplers with the vectors of avx512.hpp.
#include "avx512.hpp"

#include "implicit.hpp"

namespace trajmill::simd {

Kernels avx512_kernels() noexcept { return kernels_of<Avx512>(); }

}  // namespace trajmill::simd
