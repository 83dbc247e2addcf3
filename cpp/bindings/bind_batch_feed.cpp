#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include "batches.hpp"
#include "trajmill/batch_feed.hpp"

namespace py = pybind11;

namespace trajmill {
namespace {

using Batches = py::typing::List<py::typing::Dict<py::str, py::array>>;

// A slot's memory stays alive as long as the feed: the arrays are kept by `keep_alive` on the list of them.
std::vector<BatchFeed::Slot> slots_of(const BatchSource& source, std::size_t batch_size, const Batches& batches) {
  std::vector<BatchFeed::Slot> slots;
  for (const py::handle& batch : batches) {
    batch_for(source.batch_columns(), batch_size, py::reinterpret_borrow<py::object>(batch), slots.emplace_back());
  }
  return slots;
}

// Ends the feed without the GIL: its thread may be waiting for it, in a source written in Python.
struct Released {
  void operator()(BatchFeed* feed) const {
    const py::gil_scoped_release nogil;
    delete feed;
  }
};

}  // namespace

void bind_batch_feed(py::module_& module) {
  py::class_<BatchFeed, std::unique_ptr<BatchFeed, Released>>(
      module, "BatchFeed", "Draws batches ahead into a ring of slots, on a thread of its own.")
      .def(py::init([](BatchSource& source, std::size_t batch_size, const Batches& slots, std::size_t threads) {
             return std::unique_ptr<BatchFeed, Released>(
                 new BatchFeed(source, batch_size, slots_of(source, batch_size, slots), threads));
           }),
           py::arg("source"), py::arg("batch_size"), py::arg("slots"), py::arg("threads"), py::keep_alive<1, 2>(),
           py::keep_alive<1, 4>(), "`slots` are batches, dicts of arrays, that are not changed while the feed lives.")
      .def("ready", &BatchFeed::ready, "Is the next batch drawn already?")
      .def(
          "next",
          [](BatchFeed& feed) {
            std::size_t slot = 0;
            run_released(1, [&](const RunOptions& options) { slot = feed.next(options.interrupted); });
            return slot;
          },
          "The slot of the next batch, once it is filled.")
      .def("stop", &BatchFeed::stop, py::arg("unused") = 0, py::call_guard<py::gil_scoped_release>(),
           "End the drawing; the source's next draw is the one after the last batch handed out and used.")
      .def("release", &BatchFeed::release, "Give the oldest slot in use back to be filled again.");
}

}  // namespace trajmill
