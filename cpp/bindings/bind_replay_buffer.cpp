#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <algorithm>

#include "batches.hpp"
#include "trajmill/replay_buffer.hpp"

namespace py = pybind11;

namespace trajmill {
namespace {

using Batch = py::typing::Dict<py::str, py::array>;
using Slots = py::array_t<std::int64_t, py::array::c_style | py::array::forcecast>;  // of integers
using Priorities = py::array_t<double, py::array::c_style>;

// A buffer whose memory may be a Python object's.
class PythonReplayBuffer final : public ReplayBuffer {
 public:
  PythonReplayBuffer(ReplaySettings settings, std::span<std::byte> memory, py::object owner)
      : ReplayBuffer(std::move(settings), memory), owner_(std::move(owner)) {}

  void give_up() {
    {
      const py::gil_scoped_release nogil;
      close();
    }
    owner_ = py::none();
  }

 private:
  py::object owner_;
};

ReplaySettings settings_of(std::size_t capacity,
                           const std::vector<std::tuple<std::string, std::vector<std::size_t>, py::dtype>>& columns,
                           const std::vector<std::pair<std::string, std::string>>& shared, std::uint64_t seed,
                           std::size_t environment_count, std::size_t n_step, double discount,
                           std::optional<double> alpha) {
  ReplaySettings settings{.capacity = capacity,
                          .columns = {},
                          .shared = {},
                          .seed = seed,
                          .environment_count = environment_count,
                          .n_step = n_step,
                          .discount = discount,
                          .alpha = alpha};
  for (const auto& [name, shape, dtype] : columns) settings.columns.push_back(column_of(name, shape, dtype));
  for (const auto& [name, of] : shared) settings.shared.push_back({name, of});
  return settings;
}

std::span<std::byte> bytes_of(const py::object& memory) {
  if (memory.is_none()) return {};
  auto array = memory.cast<py::array_t<std::uint8_t, py::array::c_style>>();
  return {reinterpret_cast<std::byte*>(array.mutable_data()), static_cast<std::size_t>(array.size())};
}

std::string shape_text(const Column& column, const char* leading) {
  std::string text = std::string("(") + leading;
  for (const std::size_t size : column.shape) text += message(text.size() > 1 ? ", " : "", size);
  return text + (column.shape.size() + (*leading != 0) == 1 ? ",)" : ")");
}

// A value as an array; where it is none, NumPy knows why.
py::array as_array(const py::object& value, const std::string& what) {
  if (py::isinstance<py::array>(value)) return py::reinterpret_borrow<py::array>(value);
  try {
    return py::module_::import("numpy").attr("asarray")(value);
  } catch (const py::error_already_set& error) {
    throw py::type_error(
        message(what, " must be an array, got ", text_of(py::type::of(value)), ": ", text_of(error.value())));
  }
}

// A value as an array of the column's dtype: floats are rounded, integers and booleans must survive exactly.
py::array converted(const py::object& value, const Column& column) {
  const py::array array = as_array(value, message("column '", column.name, "'"));
  if (holds_rows(array, column)) return array;
  const py::dtype& wanted = dtype_of(column.type);
  const bool is_float = wanted.kind() == 'f';
  const char kind = array.dtype().kind();
  const bool is_number = kind == 'i' || kind == 'u' || kind == 'b' || (is_float && kind == 'f');
  py::array cast;
  if (is_number) {
    const auto& numpy = py::detail::npy_api::get();
    constexpr int kFlags =
        int{py::array::c_style} | int{py::array::forcecast} | int{py::detail::npy_api::NPY_ARRAY_ALIGNED_};
    cast = py::reinterpret_steal<py::array>(
        numpy.PyArray_FromAny_(array.ptr(), py::dtype(wanted).release().ptr(), 0, 0, kFlags, nullptr));
    if (!cast) throw py::error_already_set();
  }
  if (!is_number || (!is_float && !py::module_::import("numpy").attr("array_equal")(cast, array).cast<bool>())) {
    throw py::type_error(message("column '", column.name, "' needs ", text_of(wanted), ", got ", text_of(array.dtype()),
                                 " that cannot be converted without loss"));
  }
  return cast;
}

// The rows of an add() call: arrays kept alive, where they are, and how many rows they have.
struct AddedRows {
  std::vector<py::object> arrays;
  std::vector<const std::byte*> pointers;
  std::size_t count = 0;

  AddedRows(const std::vector<Column>& columns, const py::kwargs& values) {
    for (const Column& column : columns) {
      PyObject* const value = PyDict_GetItemString(values.ptr(), column.name.c_str());  // borrowed
      if (value == nullptr) throw std::invalid_argument(message("add lacks the column '", column.name, "'"));
      take(column, py::reinterpret_borrow<py::object>(value), pointers.empty());
    }
    if (values.size() == columns.size()) return;
    for (const auto& [name, value] : values) {
      const auto known = [&](const Column& column) { return column.name == name.cast<std::string>(); };
      if (std::ranges::none_of(columns, known)) {
        throw std::invalid_argument(message("add got a column '", text_of(name), "' that the schema does not have"));
      }
    }
  }

 private:
  void take(const Column& column, py::object value, bool is_first) {
    if (!py::isinstance<py::array>(value) || !holds_rows(value, column)) value = converted(value, column);
    const auto array = py::reinterpret_borrow<py::array>(value);
    const auto axes = static_cast<std::size_t>(array.ndim());
    const bool is_step = axes == column.shape.size();
    if ((!is_step && axes != column.shape.size() + 1) || !holds_rows(array, column)) {
      throw std::invalid_argument(message("column '", column.name, "' needs shape ", shape_text(column, ""),
                                          " for one row or ", shape_text(column, "rows"), " for many, got ",
                                          text_of(array.attr("shape"))));
    }
    const std::size_t rows = is_step ? 1 : static_cast<std::size_t>(array.shape(0));
    if (!is_first && rows != count) {
      throw std::invalid_argument(
          message("all columns need equally many rows: '", column.name, "' has ", rows, ", those before it ", count));
    }
    count = rows;
    pointers.push_back(static_cast<const std::byte*>(array.data()));
    arrays.push_back(std::move(value));
  }
};

template <class Array>
auto span_of(const Array& array) {
  return std::span(array.data(), static_cast<std::size_t>(array.size()));
}

Slots checked_slots(const py::object& indexes) {
  const py::array array = as_array(indexes, "indexes");
  const char kind = array.dtype().kind();
  if (array.ndim() != 1 || (kind != 'i' && kind != 'u' && array.size() > 0)) {
    throw py::type_error(message("indexes must be integers in one dimension, got ", text_of(array.dtype()), " ",
                                 text_of(array.attr("shape"))));
  }
  return Slots(array);
}

Priorities checked_priorities(const py::object& priorities) {
  const py::array array = as_array(priorities, "priorities");
  const char kind = array.dtype().kind();
  if (kind != 'f' && kind != 'i' && kind != 'u') {
    throw py::type_error(message("priorities must be numbers, got ", text_of(array.dtype())));
  }
  return Priorities(array);
}

template <class F>
auto released(F&& work) {
  const py::gil_scoped_release nogil;  // also while waiting for the buffer's lock
  return work();
}

}  // namespace

void bind_replay_buffer(py::module_& module) {
  py::class_<ReplaySettings>(module, "ReplaySettings", "What a ReplayBuffer is made for.")
      .def(py::init(&settings_of), py::kw_only(), py::arg("capacity"), py::arg("columns"), py::arg("shared"),
           py::arg("seed"), py::arg("environment_count"), py::arg("n_step"), py::arg("discount"), py::arg("alpha"),
           "Columns are (name, row shape, dtype); shared ones come as (name, the column it repeats).")
      .def_property_readonly(
          "byte_count", [](const ReplaySettings& settings) { return ReplayBuffer::layout(settings).byte_count; },
          "Bytes of memory that a buffer of these settings needs.");

  py::class_<PythonReplayBuffer, BatchSource>(module, "ReplayBuffer", "A ring of packed transitions.")
      .def(py::init([](const ReplaySettings& settings, const py::object& memory) {
             return std::make_unique<PythonReplayBuffer>(settings, bytes_of(memory), memory);
           }),
           py::arg("settings"), py::arg("memory") = py::none(),
           "In memory of its own, or in that of a uint8 array, which is kept.")
      .def(
          "add",
          [](PythonReplayBuffer& buffer, const py::KWArgs<py::object>& columns) {
            const AddedRows rows(buffer.settings().columns, columns);
            return released([&] { return buffer.add(rows.count, rows.pointers); });
          },
          "Append one row, given without a leading axis, or many; the first one's slot.")
      .def(
          "sample",
          [](PythonReplayBuffer& buffer, std::size_t batch_size, const py::object& out, std::size_t threads,
             bool replace, std::optional<double> beta) {
            std::vector<std::byte*> pointers;
            Batch batch = batch_for(buffer.batch_columns(), batch_size, out, pointers);
            released([&] { buffer.sample(batch_size, {replace, beta}, pointers, threads); });
            return batch;
          },
          py::arg("batch_size"), py::arg("out") = py::none(), py::arg("threads") = 1, py::kw_only(),
          py::arg("replace") = true, py::arg("beta") = py::none(),
          "The next draw as a dict of arrays; `out`, one that an earlier call gave, is filled and returned.")
      .def(
          "_gather",
          [](PythonReplayBuffer& buffer, const py::object& indexes, const py::object& out, std::size_t threads) {
            const Slots slots = checked_slots(indexes);
            std::vector<std::byte*> pointers;
            const std::span columns(buffer.batch_columns());
            Batch batch = batch_for(columns.first(buffer.gathered_column_count()),
                                    static_cast<std::size_t>(slots.size()), out, pointers);
            released([&] { buffer.gather(span_of(slots), pointers, threads); });
            return batch;
          },
          py::arg("indexes"), py::arg("out") = py::none(), py::arg("threads") = 1, "The rows in the given slots.")
      .def(
          "_epoch_slots",
          [](const PythonReplayBuffer& buffer, std::uint64_t epoch, std::size_t first, std::size_t count) {
            Slots slots(static_cast<py::ssize_t>(count));
            const std::span<std::int64_t> out(slots.mutable_data(), count);
            released([&] { buffer.epoch_slots(epoch, first, out); });
            return slots;
          },
          py::arg("epoch"), py::arg("first"), py::arg("count"), "Slots in an epoch's order, from position first on.")
      .def(
          "_slots",
          [](const PythonReplayBuffer& buffer) {
            const std::vector<std::int64_t> found = released([&] { return buffer.slots(); });
            return Slots(static_cast<py::ssize_t>(found.size()), found.data());
          },
          "Slots of all rows, in the order in which draws count them.")
      .def_property_readonly("_draw_key", &PythonReplayBuffer::draw_key, "Key of the words behind the draws.")
      .def(
          "update_priorities",
          [](PythonReplayBuffer& buffer, const py::object& indexes, const py::object& priorities) {
            const Slots slots = checked_slots(indexes);
            const Priorities values = checked_priorities(priorities);
            released([&] { buffer.update_priorities(span_of(slots), span_of(values)); });
          },
          py::arg("indexes"), py::arg("priorities"), "Set the priorities of the rows in the given slots.")
      .def(
          "_weights",
          [](const PythonReplayBuffer& buffer, const py::object& indexes) {
            const Slots slots = checked_slots(indexes);
            Priorities weights(slots.size());
            const std::span<double> out(weights.mutable_data(), static_cast<std::size_t>(slots.size()));
            released([&] { buffer.priority_weights(span_of(slots), out); });
            return weights;
          },
          py::arg("indexes"), "priority^alpha of the rows in the given slots.")
      .def("clear", &PythonReplayBuffer::clear, py::call_guard<py::gil_scoped_release>(), "Forget every row.")
      .def("__len__", &PythonReplayBuffer::size, py::call_guard<py::gil_scoped_release>())
      .def_property_readonly(
          "row_count", [](const PythonReplayBuffer& buffer) { return released([&] { return buffer.row_count(); }); },
          "Number of the next row: rows ever added, and slots that clear() skipped.")
      .def_property_readonly(
          "capacity", [](const PythonReplayBuffer& buffer) { return buffer.settings().capacity; },
          "The most rows there can be.")
      .def_property(
          "draw_count", [](const PythonReplayBuffer& buffer) { return released([&] { return buffer.draw_count(); }); },
          [](PythonReplayBuffer& buffer, std::uint64_t count) { released([&] { buffer.set_draw_count(count); }); },
          "Draws made so far, which is the number of the next one.")
      .def_property("beta", &PythonReplayBuffer::beta, &PythonReplayBuffer::set_beta,
                    "Exponent of `weights` where sample() is not given one.")
      .def_property_readonly(
          "largest_priority",
          [](const PythonReplayBuffer& buffer) { return released([&] { return buffer.largest_priority(); }); },
          "What new rows get.")
      .def_property_readonly(
          "_row_stride", [](const PythonReplayBuffer& buffer) { return buffer.layout().row_stride; },
          "Bytes from one row to the next.")
      .def_property_readonly(
          "_parts",
          [](const PythonReplayBuffer& buffer) {
            const ReplayLayout& layout = buffer.layout();
            return std::vector<std::size_t>{0, layout.rows, layout.weights, layout.entries, layout.byte_count};
          },
          "Where state, rows, weights and entries begin in memory, and where they end.")
      .def_property_readonly(
          "_memory",
          [](const py::object& self) {
            const std::span<std::byte> memory = self.cast<PythonReplayBuffer&>().memory();
            return py::array_t<std::uint8_t>(static_cast<py::ssize_t>(memory.size()),
                                             reinterpret_cast<std::uint8_t*>(memory.data()), self);
          },
          "All of the buffer's memory.")
      .def(
          "_used_extents",
          [](const PythonReplayBuffer& buffer) {
            std::vector<std::pair<std::size_t, std::size_t>> extents;
            for (const auto& [begin, size] : buffer.used_extents()) extents.emplace_back(begin, size);
            return extents;
          },
          "Begin and size of what is in use of state, rows, weights and entries.")
      .def("_restore", &PythonReplayBuffer::restore, py::call_guard<py::gil_scoped_release>(),
           "Take over what was put into memory.")
      .def("_lock", &PythonReplayBuffer::lock_shared, py::call_guard<py::gil_scoped_release>(),
           "Keep changes out until _unlock, in the same thread.")
      .def("_unlock", &PythonReplayBuffer::unlock_shared)
      .def("_close", &PythonReplayBuffer::give_up, "Give the memory up.");
}

}  // namespace trajmill
