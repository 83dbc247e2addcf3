#include <pybind11/stl.h>

#include "bindings.hpp"
#include "trajmill/seeded_batches.hpp"

namespace py = pybind11;

namespace trajmill {

void bind_seeded_batches(py::module_& module) {
  using NoGIL = py::call_guard<Released>;  // an update under way may be waiting for the GIL
  py::class_<SeededBatches, BatchSource>(
      module, "SeededBatches",
      "The batches of training: at every update `batch_size` rows of the source for each seed, one seed after another.")
      .def(py::init<BatchSource&, std::vector<std::uint64_t>, std::size_t, std::uint32_t>(), py::arg("source"),
           py::kw_only(), py::arg("seeds"), py::arg("batch_size"), py::arg("site") = 0, py::keep_alive<1, 2>(),
           "Row r of a seed at update n is row word[r] * row_count >> 32 of the source, by the words of the site.")
      .def_property_readonly("row_count", &SeededBatches::row_count, "Rows of one update, of all seeds together.")
      .def_property_readonly("update", py::cpp_function(&SeededBatches::update, NoGIL()), "Number of the next update.")
      .def(
          "set_update",
          [](SeededBatches& batches, std::uint64_t update) {
            run_released(1, [&](const RunOptions& options) { batches.set_update(update, options.interrupted); });
          },
          py::arg("update"),
          "Make this update the next one, with the shares that a mixture has after so many updates from the start.");
}

}  // namespace trajmill
