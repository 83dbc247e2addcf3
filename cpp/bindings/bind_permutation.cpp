#include "bindings.hpp"
#include "trajmill/permutation.hpp"

namespace py = pybind11;

namespace trajmill {

void bind_permutation(py::module_& module) {
  using Positions = py::array_t<std::uint64_t, py::array::c_style>;
  module.def(
      "permute",
      [](const Positions& positions, std::uint64_t size, std::uint64_t seed, std::uint64_t epoch) {
        const Permutation permutation(size, seed, epoch);
        Positions out(positions.size());
        const std::span from(positions.data(), static_cast<std::size_t>(positions.size()));
        const std::span to(out.mutable_data(), from.size());
        const Pinned pin(positions);
        released([&] { permutation.apply(from, to); });
        return out;
      },
      py::arg("positions"), py::kw_only(), py::arg("size"), py::arg("seed"), py::arg("epoch"),
      "Where a keyed bijection of [0, size) sends each position, uint64.");
}

}  // namespace trajmill
