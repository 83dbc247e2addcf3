#include "bindings.hpp"

#include <unistd.h>

#ifdef __APPLE__
#include <pthread.h>
#endif

#include <bit>

namespace py = pybind11;

namespace trajmill {

void wait_for_the_end() noexcept {
  for (;;) pause();
}

bool interpreter_ends() noexcept {
#if PY_VERSION_HEX >= 0x030D0000
  const bool is_finalizing = Py_IsFinalizing() != 0;
#else
  const bool is_finalizing = _Py_IsFinalizing() != 0;
#endif
  return is_finalizing || Py_IsInitialized() == 0;
}

void wait_if_interpreter_ends() noexcept {
#ifdef __APPLE__
  const bool is_main_thread = pthread_main_np() != 0;
#else
  const bool is_main_thread = gettid() == getpid();
#endif
  if (interpreter_ends() && !is_main_thread) wait_for_the_end();
}

Released::~Released() {
  wait_if_interpreter_ends();
  try {
    PyEval_RestoreThread(state_);
  } catch (ThreadEnds&) {
    wait_for_the_end();
  }
}

const py::custom_type_setup kCollected([](PyHeapTypeObject* type) {
  type->ht_type.tp_flags |= Py_TPFLAGS_HAVE_GC;
  type->ht_type.tp_traverse = [](PyObject* self, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(self));
    if (!reinterpret_cast<py::detail::instance*>(self)->has_patients) return 0;
    for (PyObject* const patient : py::detail::get_internals().patients.at(self)) Py_VISIT(patient);
    return 0;
  };
});

bool is_native(const py::array& array) {
  constexpr char kForeign = std::endian::native == std::endian::little ? '>' : '<';
  return array.dtype().byteorder() != kForeign && (array.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_) != 0;
}

Filled::Filled(const py::array& out) : memory(out), rows{} {
  const py::array& array = memory.array();
  const char kind = array.dtype().kind();
  if (array.ndim() != 2 || !(array.flags() & py::array::c_style) || !array.writeable() ||
      (kind != 'u' && kind != 'i') || !is_native(array)) {
    throw std::invalid_argument(
        "out must be a writeable, C-contiguous, aligned, two-dimensional array of integers of the machine's byte "
        "order");
  }
  rows = {memory.data(), static_cast<std::size_t>(array.shape(0)), static_cast<std::size_t>(array.shape(1)),
          static_cast<std::size_t>(array.itemsize())};
}

}  // namespace trajmill
