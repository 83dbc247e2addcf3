#include "bindings.hpp"

namespace py = pybind11;

namespace trajmill {
namespace {

// What pybind11 leaves open for every class: an object whose __init__ was not called, or failed, has no C++ value, for
// which it would use memory that nobody filled; and Python's own way to pickle an object, or to copy it, ends the
// process.
void close_gaps(const py::module_& module) {
  const py::object plain = py::module_::import("builtins").attr("object").attr("__reduce__");
  for (const auto& [name, value] : py::reinterpret_borrow<py::dict>(module.attr("__dict__"))) {
    if (!py::isinstance<py::type>(value)) continue;
    auto* const info = py::detail::get_type_info(reinterpret_cast<PyTypeObject*>(value.ptr()));
    if (info == nullptr) continue;
    info->operator_new = [](std::size_t) -> void* {
      throw py::type_error("this object was not made: its __init__ was not called, or has failed; make a new one");
    };
    if (!py::object(value.attr("__reduce__")).is(plain)) continue;
    value.attr("__reduce__") = py::cpp_function(
        [](const py::object& self) -> py::object {
          throw py::type_error(message("a ", text_of(py::type::of(self).attr("__name__")),
                                       " is not pickled; make it anew in the other process from what it was made of"));
        },
        py::name("__reduce__"), py::is_method(value));
  }
}

}  // namespace
}  // namespace trajmill

PYBIND11_MODULE(_core, module) {
  module.doc() = "The compiled core of trajmill: seeded chains and MDPs, replay.";
  trajmill::bind_batch_source(module);
  trajmill::bind_batch_feed(module);
  trajmill::bind_law(module);
  trajmill::bind_machine(module);
  trajmill::bind_markov_chain(module);
  trajmill::bind_mdp(module);
  trajmill::bind_mdp_transitions(module);
  trajmill::bind_mixed_replay(module);
  trajmill::bind_permutation(module);
  trajmill::bind_reference(module);
  trajmill::bind_seeded_batches(module);
  trajmill::bind_trajectory_buffer(module);
  trajmill::bind_replay_buffer(module);
  trajmill::close_gaps(module);
}
