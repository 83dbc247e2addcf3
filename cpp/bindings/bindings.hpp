// What the binding files share: each registers one idea with the module.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <memory>
#include <span>
#include <stdexcept>
#include <string>

#include "trajmill/error.hpp"
#include "trajmill/rows.hpp"
#include "trajmill/thread_pool.hpp"

namespace trajmill {

void bind_batch_feed(pybind11::module_& module);
void bind_batch_source(pybind11::module_& module);
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
inline std::string text_of(const pybind11::handle& object) { return pybind11::str(object).cast<std::string>(); }

// Runs `work` without the GIL, on `thread_count` threads, and turns a pending signal (Ctrl-C) into its Python
// exception.
template <class F>
void run_released(std::size_t thread_count, F&& work) {
  try {
    const pybind11::gil_scoped_release nogil;  // `work` holds C++ values only
    work(RunOptions{thread_count, [] {
                      const pybind11::gil_scoped_acquire gil;
                      return PyErr_CheckSignals() != 0;
                    }});
  } catch (const Interrupted&) {
    throw pybind11::error_already_set();  // PyErr_CheckSignals has set it
  }
}

// A caller's C-contiguous two-dimensional integer array as rows to fill.
inline Rows rows_of(pybind11::array& array) {
  if (array.ndim() != 2 || !(array.flags() & pybind11::array::c_style) || !array.writeable() ||
      (array.dtype().kind() != 'u' && array.dtype().kind() != 'i')) {
    throw std::invalid_argument("out must be a writeable, C-contiguous, two-dimensional array of integers");
  }
  return {static_cast<std::byte*>(array.mutable_data()), static_cast<std::size_t>(array.shape(0)),
          static_cast<std::size_t>(array.shape(1)), static_cast<std::size_t>(array.itemsize())};
}

// A caller's sequence numbers, one for each row, each depends on its own alone.
using Indexes = pybind11::array_t<std::uint64_t, pybind11::array::c_style>;

inline Sequences sequences_of(const Indexes& indexes, const Rows& rows) {
  if (static_cast<std::size_t>(indexes.size()) != rows.row_count) {
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
