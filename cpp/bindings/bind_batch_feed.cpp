#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include "batches.hpp"
#include "trajmill/batch_feed.hpp"

namespace py = pybind11;

namespace trajmill {
namespace {

using Batches = py::typing::List<py::typing::Dict<py::str, py::array>>;

// A feed, and the Python objects that its thread uses, which drops them last if it outlives this.
struct PythonFeed {
  struct Kept {
    py::object source;
    std::vector<Batch> slots;
  };
  Kept* kept;  // owned by the feed
  BatchFeed feed;
};

std::shared_ptr<PythonFeed::Kept> kept_of(py::object source, std::vector<Batch> slots) {
  return {new PythonFeed::Kept{std::move(source), std::move(slots)}, [](PythonFeed::Kept* kept) {
            if (interpreter_ends()) return;  // the process gives everything up
            with_python([&] { delete kept; });
          }};
}

// Ends the feed without the GIL: its thread may be waiting for it, in a source written in Python. Not at the end of the
// interpreter, where such a thread waits for ever.
struct Ended {
  void operator()(PythonFeed* feed) const {
    if (interpreter_ends()) return;
    const Released released;
    delete feed;
  }
};

std::unique_ptr<PythonFeed, Ended> make_feed(py::object source, std::size_t batch_size, const Batches& batches,
                                             std::size_t threads) {
  auto& drawn = source.cast<BatchSource&>();
  require_draw(batch_size, threads);
  join_workers(drawn);
  std::vector<BatchFeed::Slot> slots;
  std::vector<Batch> arrays;
  for (const py::handle& batch : batches) {
    arrays.push_back(batch_for(drawn.batch_columns(), batch_size, py::reinterpret_borrow<py::object>(batch)));
    slots.push_back(arrays.back().pointers);
  }
  auto kept = kept_of(std::move(source), std::move(arrays));
  PythonFeed::Kept* const shown = kept.get();
  return std::unique_ptr<PythonFeed, Ended>(
      new PythonFeed{shown, BatchFeed(drawn, batch_size, std::move(slots), threads, std::move(kept))});
}

const py::custom_type_setup kVisited([](PyHeapTypeObject* type) {
  type->ht_type.tp_flags |= Py_TPFLAGS_HAVE_GC;
  type->ht_type.tp_traverse = [](PyObject* self, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(self));
    if (!py::detail::is_holder_constructed(self)) return 0;
    const PythonFeed::Kept& kept = *py::handle(self).cast<PythonFeed&>().kept;
    Py_VISIT(kept.source.ptr());
    return 0;
  };
});

}  // namespace

void bind_batch_feed(py::module_& module) {
  py::class_<PythonFeed, std::unique_ptr<PythonFeed, Ended>>(
      module, "BatchFeed", kVisited, "Draws batches ahead into a ring of slots, on a thread of its own.")
      .def(py::init(&make_feed), py::arg("source"), py::arg("batch_size"), py::arg("slots"), py::arg("threads"),
           "`slots` are batches, dicts of arrays, which are filled for as long as the feed lives.")
      .def(
          "ready", [](const PythonFeed& self) { return self.feed.ready(); }, "Is the next batch drawn already?")
      .def(
          "next",
          [](PythonFeed& self) {
            std::size_t slot = 0;
            run_released(1, [&](const RunOptions& options) { slot = self.feed.next(options.interrupted); });
            return slot;
          },
          "The slot of the next batch, once it is filled.")
      .def(
          "stop", [](PythonFeed& self, std::size_t unused) { released([&] { self.feed.stop(unused); }); },
          py::arg("unused") = 0,
          "End the drawing; the source's next draw is the one after the last batch handed out and used.")
      .def(
          "release", [](PythonFeed& self) { self.feed.release(); },
          "Give the oldest slot in use back to be filled again.");
}

}  // namespace trajmill
