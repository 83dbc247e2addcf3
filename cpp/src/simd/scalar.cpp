// The samplers with the vectors of scalar.hpp.
#include "scalar.hpp"

#include "implicit.hpp"

namespace trajmill::simd {

Kernels scalar_kernels() noexcept { return kernels_of<Scalar>(); }

}  // namespace trajmill::simd
