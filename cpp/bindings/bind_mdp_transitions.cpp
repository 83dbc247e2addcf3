#include <pybind11/stl.h>

#include "batches.hpp"
#include "named_values.hpp"
#include "trajmill/mdp_transitions.hpp"

namespace py = pybind11;

namespace trajmill {
namespace {

using Vectors = py::array_t<float, py::array::c_style>;

Codebook codebook_of(const Vectors& vectors) {
  if (vectors.ndim() != 2 || vectors.size() == 0) throw std::invalid_argument("vectors must be [count, dimension]");
  return {{vectors.data(), vectors.data() + vectors.size()}, static_cast<std::size_t>(vectors.shape(1))};
}

// What an MDPTransitions holds, for Python to read.
py::array read_only(const py::object& self, const py::dtype& dtype, std::size_t row_count, std::size_t width,
                    const void* data) {
  py::array array(dtype, {row_count, width}, data, self);
  array.attr("setflags")(py::arg("write") = false);
  return array;
}

py::array packed_rows_of(const py::object& self) {
  const auto& source = self.cast<const MDPTransitions&>();
  const DataType type = source.element_size() == 1   ? DataType::u1
                        : source.element_size() == 2 ? DataType::u2
                                                     : DataType::u4;
  return read_only(self, dtype_of(type), source.row_count(), 3, source.rows());
}

template <const Codebook& (MDPTransitions::*book_of)() const noexcept>
Vectors vectors_of(const py::object& self) {
  const Codebook& book = (self.cast<const MDPTransitions&>().*book_of)();
  return read_only(self, dtype_of(DataType::f4), book.row_count(), book.dimension, book.vectors.data());
}

}  // namespace

void bind_mdp_transitions(py::module_& module) {
  py::class_<MDPTransitions, BatchSource>(module, "MDPTransitions", "Transitions of a discrete MDP as vectors.")
      .def(py::init([](const py::array& rows, const Vectors& state_vectors, const Vectors& action_vectors,
                       const std::optional<Vectors>& target_vectors, std::uint64_t seed) {
             if (rows.ndim() != 2 || rows.shape(1) != 3 || (rows.flags() & py::array::c_style) == 0 ||
                 rows.dtype().kind() != 'u' || rows.itemsize() > 4 || !is_native(rows)) {
               throw std::invalid_argument("rows must be C-contiguous (state, action, target), uint8 to uint32");
             }
             std::optional<Codebook> targets;
             if (target_vectors) targets = codebook_of(*target_vectors);
             return std::make_unique<MDPTransitions>(
                 static_cast<const std::byte*>(rows.data()), static_cast<std::size_t>(rows.shape(0)),
                 static_cast<std::size_t>(rows.itemsize()), codebook_of(state_vectors), codebook_of(action_vectors),
                 std::move(targets), seed);
           }),
           py::kw_only(), py::arg("rows"), py::arg("state_vectors"), py::arg("action_vectors"),
           py::arg("target_vectors"), py::arg("seed"),
           "From unsigned integers [M, 3] and float32 codebooks; without target_vectors, targets "
           "are states.")
      .def("__len__", &MDPTransitions::row_count)
      .def_property_readonly("rows", &packed_rows_of,
                             "State, action and target of every transition, [M, 3], read-only.")
      .def_property_readonly("state_vectors", &vectors_of<&MDPTransitions::states>,
                             "Float32 [states, dimension], read-only.")
      .def_property_readonly("action_vectors", &vectors_of<&MDPTransitions::actions>,
                             "Float32 [actions, dimension], read-only.")
      .def_property_readonly("target_vectors", &vectors_of<&MDPTransitions::targets>,
                             "Float32 [targets, dimension], read-only; those of the states unless others were given.")
      .def_property_readonly("seed", &MDPTransitions::seed)
      .def_property(
          "draw_count", &MDPTransitions::draw_count,
          [](MDPTransitions& source, Whole<"draw_count"> count) { source.set_draw_count(count); },
          "Draws made so far; also the number of the next.");
}

}  // namespace trajmill
