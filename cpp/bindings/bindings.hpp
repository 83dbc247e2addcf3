// What the binding files share: each registers one idea with the module.
#pragma once

#include <cxxabi.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstddef>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "trajmill/error.hpp"
#include "trajmill/rows.hpp"
#include "trajmill/thread_pool.hpp"

namespace trajmill {

void bind_batch_feed(pybind11::module_& module);
void bind_batch_source(pybind11::module_& module);
void bind_law(pybind11::module_& module);
void bind_machine(pybind11::module_& module);
void bind_markov_chain(pybind11::module_& module);
void bind_mdp(pybind11::module_& module);
void bind_mdp_transitions(pybind11::module_& module);
void bind_mixed_replay(pybind11::module_& module);
void bind_permutation(pybind11::module_& module);
void bind_reference(pybind11::module_& module);
void bind_seeded_batches(pybind11::module_& module);
void bind_trajectory_buffer(pybind11::module_& module);
void bind_replay_buffer(pybind11::module_& module);

// An object as str() shows it, for messages.
inline std::string text_of(const pybind11::handle& object) {
  const pybind11::str text(object);
  PyObject* const bytes = PyUnicode_AsEncodedString(text.ptr(), "utf-8", "backslashreplace");  // also half of a pair
  if (bytes == nullptr) throw pybind11::error_already_set();
  return std::string(pybind11::reinterpret_steal<pybind11::bytes>(bytes));
}

// --- the interpreter's lock ---

// When the interpreter ends, threads that ask for its lock are ended by it, in the middle of C++ (up to Python 3.13).
// They stop here for ever instead, as newer versions have it; the process does not wait for them.
#ifdef __GLIBCXX__
using ThreadEnds = abi::__forced_unwind;
#else
struct ThreadEnds {};  // never thrown: where libstdc++ is not, a thread is not ended by an exception
#endif
[[noreturn]] void wait_for_the_end() noexcept;
[[nodiscard]] bool interpreter_ends() noexcept;
void wait_if_interpreter_ends() noexcept;  // unless this is the main thread, which ends it

// Without the lock for as long as this lives. What runs meanwhile holds C++ values only.
class Released {
 public:
  Released() : state_(PyEval_SaveThread()) {}
  Released(const Released&) = delete;
  Released& operator=(const Released&) = delete;
  ~Released();

 private:
  PyThreadState* state_;
};

// Calls work() with the lock, from any thread.
template <class F>
auto with_python(F&& work) {
  wait_if_interpreter_ends();
  try {
    const pybind11::gil_scoped_acquire gil;
    try {
      return work();
    } catch (ThreadEnds&) {
      wait_for_the_end();  // before the lock, which is the main thread's now, would be given up
    }
  } catch (ThreadEnds&) {
    wait_for_the_end();
  }
}

// Calls a Python function that may take long.
template <class... Arguments>
pybind11::object call_python(const pybind11::handle& function, Arguments&&... arguments) {
  const pybind11::tuple given = pybind11::make_tuple(std::forward<Arguments>(arguments)...);
  try {
    PyObject* const result = PyObject_CallObject(function.ptr(), given.ptr());
    if (result == nullptr) throw pybind11::error_already_set();
    return pybind11::reinterpret_steal<pybind11::object>(result);
  } catch (ThreadEnds&) {
    wait_for_the_end();  // with all that is held here: there is no lock to give it up under
  }
}

// Runs `work` without the lock.
template <class F>
auto released(F&& work) {
  const Released released;
  return work();
}

// Runs `work` without the lock, on `thread_count` threads, and turns a pending signal (Ctrl-C) into its Python
// exception.
template <class F>
void run_released(std::size_t thread_count, F&& work) {
  try {
    const Released released;
    work(RunOptions{thread_count, [] { return with_python([] { return PyErr_CheckSignals() != 0; }); }});
  } catch (const Interrupted&) {
    throw pybind11::error_already_set();  // PyErr_CheckSignals has set it
  }
}

// For classes whose objects keep others alive (pybind11's patients): shows these to the garbage collector. They need no
// clearing, since they were there before the object: a cycle leads through something that can be cleared.
extern const pybind11::custom_type_setup kCollected;

// --- arrays ---

// An array whose memory stays where it is for as long as this lives, whatever callbacks or other threads do with it:
// NumPy does not resize an array that there is a weak reference to.
class Pinned {
 public:
  explicit Pinned(pybind11::array array)
      : array_(std::move(array)),
        pin_(pybind11::reinterpret_steal<pybind11::object>(PyWeakref_NewRef(array_.ptr(), nullptr))) {
    if (!pin_) throw pybind11::error_already_set();
  }

  [[nodiscard]] const pybind11::array& array() const noexcept { return array_; }
  [[nodiscard]] std::byte* data() const noexcept {
    return reinterpret_cast<std::byte*>(pybind11::detail::array_proxy(array_.ptr())->data);
  }

 private:
  pybind11::array array_;
  pybind11::object pin_;
};

// Whether the numbers of an array can be read and written as C++ numbers.
[[nodiscard]] bool is_native(const pybind11::array& array);

// A caller's C-contiguous two-dimensional integer array as rows to fill.
struct Filled {
  explicit Filled(const pybind11::array& out);

  Pinned memory;
  Rows rows;
};

// A caller's sequence numbers, one for each row, each depends on its own alone.
using Indexes = pybind11::array_t<std::uint64_t, pybind11::array::c_style>;

// A copy, which nothing else can change.
template <class Number, int flags>
std::vector<Number> copied(const pybind11::array_t<Number, flags>& array) {
  return {array.data(), array.data() + array.size()};
}

inline Sequences sequences_of(const std::vector<std::uint64_t>& indexes, const Rows& rows) {
  if (indexes.size() != rows.row_count) {
    throw std::invalid_argument(
        message("there must be one row for each of ", indexes.size(), " indexes, got ", rows.row_count));
  }
  return {0, indexes.data()};
}

inline Backend backend_of(const std::string& name) {
  if (name == "auto") return Backend::automatic;
  if (name == "dense") return Backend::dense;
  if (name == "implicit") return Backend::implicit;
  throw std::invalid_argument(message("backend must be auto, dense or implicit, got '", name, "'"));
}

inline std::string backend_name(bool dense) { return dense ? "dense" : "implicit"; }

using Doubles = pybind11::array_t<double, pybind11::array::c_style>;

inline std::span<const double> span_of(const Doubles& array) {
  return {array.data(), static_cast<std::size_t>(array.size())};
}

inline std::span<double> mutable_span_of(Doubles& array) {
  return {array.mutable_data(), static_cast<std::size_t>(array.size())};
}

}  // namespace trajmill
