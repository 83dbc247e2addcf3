// The samplers with the vectors of sse4.hpp.
#include "sse4.hpp"

#include "implicit.hpp"

namespace trajmill::simd {

Kernels sse4_kernels() noexcept { return kernels_of<Sse4>(); }

}  // namespace trajmill::simd
