#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>

#include "batches.hpp"
#include "named_values.hpp"
#include "trajmill/replay_buffer.hpp"

namespace py = pybind11;

namespace trajmill {
namespace {

using Arrays = py::typing::Dict<py::str, py::array>;
using Slots = py::array_t<std::int64_t, py::array::c_style | py::array::forcecast>;  // of integers
using Priorities = py::array_t<double, py::array::c_style>;

// A buffer whose memory may be a Python object's.
class PythonReplayBuffer final : public ReplayBuffer {
 public:
  PythonReplayBuffer(ReplaySettings settings, std::span<std::byte> memory, std::optional<Pinned> owner)
      : ReplayBuffer(std::move(settings), memory), owner_(std::move(owner)) {}

  void give_up(const std::string& reason) {
    released([&] { close(reason); });
    owner_.reset();
  }

  // All of the memory, which stays as long as the view does.
  [[nodiscard]] py::array_t<std::uint8_t> view() const {
    const std::span<std::byte> bytes = memory();
    py::object owner = owner_ ? py::object(owner_->array()) : py::none();
    if (const auto& owned = owned_memory()) {
      owner = py::capsule(new std::shared_ptr<std::byte[]>(owned),
                          [](void* last) { delete static_cast<std::shared_ptr<std::byte[]>*>(last); });
    }
    return py::array_t<std::uint8_t>(static_cast<py::ssize_t>(bytes.size()),
                                     reinterpret_cast<std::uint8_t*>(bytes.data()), owner);
  }

  bool told_of_breaks = false;

 private:
  std::optional<Pinned> owner_;
};

using Pairs = std::vector<std::pair<std::string, std::string>>;

std::vector<SharedColumn> shared_columns(const Pairs& pairs) {
  std::vector<SharedColumn> columns;
  for (const auto& [name, of] : pairs) columns.push_back({name, of});
  return columns;
}

ReplaySettings settings_of(std::size_t capacity,
                           const std::vector<std::tuple<std::string, std::vector<std::size_t>, py::dtype>>& columns,
                           const Pairs& shared, const std::optional<Pairs>& following, std::uint64_t seed,
                           std::size_t environment_count, std::size_t n_step, double discount,
                           std::optional<double> alpha, bool is_checked) {
  ReplaySettings settings{.capacity = capacity,
                          .columns = {},
                          .shared = shared_columns(shared),
                          .following = {},
                          .seed = seed,
                          .environment_count = environment_count,
                          .n_step = n_step,
                          .discount = discount,
                          .is_checked = is_checked,
                          .alpha = alpha};
  for (const auto& [name, shape, dtype] : columns) settings.columns.push_back(column_of(name, shape, dtype));
  if (following) settings.following = shared_columns(*following);
  return settings;
}

std::unique_ptr<PythonReplayBuffer> make_buffer(const ReplaySettings& settings, const py::object& memory) {
  if (memory.is_none()) return std::make_unique<PythonReplayBuffer>(settings, std::span<std::byte>(), std::nullopt);
  if (!py::isinstance<py::array_t<std::uint8_t, py::array::c_style>>(memory)) {
    throw py::type_error("memory must be a C-contiguous array of uint8");
  }
  Pinned owner(py::reinterpret_borrow<py::array>(memory));
  require(owner.array().writeable() && owner.array().size() > 0, "memory must be writeable and not empty");
  const std::span bytes(owner.data(), static_cast<std::size_t>(owner.array().size()));
  return std::make_unique<PythonReplayBuffer>(settings, bytes, std::move(owner));
}

std::string shape_text(const Column& column, const char* leading) {
  std::string text = std::string("(") + leading;
  for (const std::size_t size : column.shape) text += message(text.size() > 1 ? ", " : "", size);
  return text + (column.shape.size() + (*leading != 0) == 1 ? ",)" : ")");
}

constexpr const char* kEnvironments = "environments";  // the argument of add(), unless a column has that name

// The rows of an add() call: where they are, and how many. They stay as they are while this is there: arrays that no
// one can take away, or, of a few rows, copies.
struct AddedRows {
  std::vector<const std::byte*> pointers;
  std::vector<std::int64_t> environments;  // of each row; none: all step together
  std::size_t count = 0;

  AddedRows(const AddedRows&) = delete;
  AddedRows(const std::vector<Column>& columns, const py::kwargs& values) {
    Py_ssize_t place = 0;
    for (const Column& column : columns) {
      PyObject* const value = find_item(values, column.name, place);
      if (value == nullptr) throw std::invalid_argument(message("add lacks the column '", column.name, "'"));
      take(column, py::reinterpret_borrow<py::object>(value), pointers.empty());
    }
    if (values.size() == columns.size()) return;
    for (const auto& [name, value] : values) {
      if (std::ranges::any_of(columns, [&](const Column& column) { return is_named(name, column.name); })) continue;
      if (is_named(name, kEnvironments)) {
        take_environments(py::reinterpret_borrow<py::object>(value));
      } else {
        throw std::invalid_argument(message("add got a column '", text_of(name), "' that the schema does not have"));
      }
    }
  }

 private:
  void take_environments(const py::object& value) {
    const py::array array = as_array(value, kEnvironments);
    const char kind = array.dtype().kind();
    const bool is_one = array.ndim() == 0 && is_step_;
    if ((kind != 'i' && kind != 'u' && array.size() > 0) || (!is_one && array.ndim() != 1)) {
      throw py::type_error(message("environments must be integers in one dimension, got ", text_of(array.dtype()), " ",
                                   text_of(array.attr("shape"))));
    }
    environments = copied(Slots(array));
    if (environments.size() != count) {
      throw std::invalid_argument(
          message("environments must have one number for each of ", count, " rows, got ", environments.size()));
    }
  }

  std::vector<Pinned> arrays_;
  std::size_t copied_ = 0;
  bool is_step_ = false;
  std::byte copies_[2048];

  void take(const Column& column, const py::object& value, bool is_first) {
    const py::array array = converted(value, column, [&] { return message("column '", column.name, "'"); });
    const auto axes = static_cast<std::size_t>(array.ndim());
    const bool is_step = axes == column.shape.size();
    if ((!is_step && axes != column.shape.size() + 1) || !holds_rows(array, column)) {
      throw std::invalid_argument(message("column '", column.name, "' needs shape ", shape_text(column, ""),
                                          " for one row or ", shape_text(column, "rows"), " for many, got ",
                                          text_of(array.attr("shape"))));
    }
    is_step_ = is_step;
    const std::size_t rows = is_step ? 1 : static_cast<std::size_t>(array.shape(0));
    if (!is_first && rows != count) {
      throw std::invalid_argument(
          message("all columns need equally many rows: '", column.name, "' has ", rows, ", those before it ", count));
    }
    count = rows;
    const auto size = static_cast<std::size_t>(array.nbytes());
    if (size <= sizeof(copies_) - copied_) {
      std::memcpy(copies_ + copied_, array.data(), size);
      pointers.push_back(copies_ + std::exchange(copied_, copied_ + size));
    } else {
      pointers.push_back(arrays_.emplace_back(array).data());
    }
  }
};

// Tells once of rows that n steps stop at though they are no ends, which a difference in a last bit is enough for.
void tell_of_breaks(PythonReplayBuffer& buffer) {
  if (buffer.settings().n_step == 1 || buffer.told_of_breaks) return;
  if (released([&] { return buffer.break_count(); }) == 0) return;
  buffer.told_of_breaks = true;
  if (PyErr_WarnEx(PyExc_RuntimeWarning,
                   "n_step: a row that is neither terminal nor truncated is not continued by the row after it, whose "
                   "observation is not byte by byte the next observation; runs of n steps stop there, and break_count "
                   "says how many do. If it should continue, add both from one array: rounding, normalization and -0.0 "
                   "make a difference. If it ends there, set truncated. If the rows are of several environments, set "
                   "environment_count",
                   1) != 0) {
    throw py::error_already_set();
  }
}

// A copy, so that no one can change them once they are checked.
std::vector<std::int64_t> checked_slots(const py::object& indexes) {
  const py::array array = as_array(indexes, "indexes");
  const char kind = array.dtype().kind();
  if (array.ndim() != 1 || (kind != 'i' && kind != 'u' && array.size() > 0)) {
    throw py::type_error(message("indexes must be integers in one dimension, got ", text_of(array.dtype()), " ",
                                 text_of(array.attr("shape"))));
  }
  return copied(Slots(array));
}

std::vector<double> checked_priorities(const py::object& priorities) {
  const py::array array = as_array(priorities, "priorities");
  const char kind = array.dtype().kind();
  if (kind != 'f' && kind != 'i' && kind != 'u') {
    throw py::type_error(message("priorities must be numbers, got ", text_of(array.dtype())));
  }
  return copied(Priorities(array));
}

}  // namespace

void bind_replay_buffer(py::module_& module) {
  py::class_<ReplaySettings>(module, "ReplaySettings", "What a ReplayBuffer is made for.")
      .def(py::init(&settings_of), py::kw_only(), py::arg("capacity"), py::arg("columns"), py::arg("shared"),
           py::arg("following"), py::arg("seed"), py::arg("environment_count"), py::arg("n_step"), py::arg("discount"),
           py::arg("alpha"), py::arg("is_checked") = false,
           "Columns are (name, row shape, dtype); shared and following ones (name, the column it repeats or follows).")
      .def_property_readonly(
          "byte_count", [](const ReplaySettings& settings) { return ReplayBuffer::layout(settings).byte_count; },
          "Bytes of memory that a buffer of these settings needs.");

  py::class_<PythonReplayBuffer, BatchSource>(module, "ReplayBuffer", "A ring of packed transitions.")
      .def(py::init(&make_buffer), py::arg("settings"), py::arg("memory") = py::none(),
           "In memory of its own, or in that of a uint8 array, which is kept.")
      .def(
          "add",
          [](PythonReplayBuffer& buffer, const py::Args<py::object>& unnamed, const py::KWArgs<py::object>& columns) {
            if (!unnamed.empty()) {
              throw py::type_error("add() takes columns by their names, as in add(observation=..., reward=...)");
            }
            const AddedRows rows(buffer.settings().columns, columns);
            const std::size_t slot = released([&] { return buffer.add(rows.count, rows.pointers, rows.environments); });
            tell_of_breaks(buffer);
            return slot;
          },
          "Append one row, given without a leading axis, or many, of all environments or of `environments`; the first "
          "one's slot.")
      .def(
          "sample",
          [](PythonReplayBuffer& buffer, Whole<"batch_size"> batch_size, const py::object& out,
             Whole<"threads"> threads, Truth<"replace"> replace, std::optional<Real<"beta">> beta) -> Arrays {
            require_draw(batch_size, threads);
            join_workers(buffer);
            const Batch batch = batch_for(buffer.batch_columns(), batch_size, out);
            released([&] {
              buffer.in_turn(batch_size, [&] { buffer.sample(batch_size, {replace, beta}, batch.pointers, threads); });
            });
            return batch.arrays;
          },
          py::arg("batch_size"), py::arg("out") = py::none(), py::arg("threads") = 1, py::kw_only(),
          py::arg("replace") = true, py::arg("beta") = py::none(),
          "The next draw as a dict of arrays; `out`, one that an earlier call gave, is filled and returned.")
      .def(
          "_gather",
          [](PythonReplayBuffer& buffer, const py::object& indexes, const py::object& out, std::size_t threads,
             bool as_added) -> Arrays {
            const std::vector<std::int64_t> slots = checked_slots(indexes);
            const Batch batch = batch_for(buffer.gathered_columns(as_added), slots.size(), out);
            released([&] { buffer.gather(slots, batch.pointers, threads, as_added); });
            return batch.arrays;
          },
          py::arg("indexes"), py::arg("out") = py::none(), py::arg("threads") = 1, py::arg("as_added") = false,
          "The rows in the given slots, as draws have them or as they were added.")
      .def(
          "_epoch_slots",
          [](const PythonReplayBuffer& buffer, std::uint64_t epoch, std::size_t first, std::size_t count) {
            require_draw(std::max<std::size_t>(count, 1), 1);
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
      .def(
          "_changed_slots",
          [](const PythonReplayBuffer& buffer, std::uint64_t first, std::uint64_t last) {
            const std::vector<std::int64_t> found = released([&] { return buffer.changed_slots(first, last); });
            return Slots(static_cast<py::ssize_t>(found.size()), found.data());
          },
          py::arg("first"), py::arg("last"), "Slots of rows number first to last - 1 that are not what was added.")
      .def_property_readonly("_draw_key", &PythonReplayBuffer::draw_key, "Key of the words behind the draws.")
      .def(
          "update_priorities",
          [](PythonReplayBuffer& buffer, const py::object& indexes, const py::object& priorities) {
            const std::vector<std::int64_t> slots = checked_slots(indexes);
            const std::vector<double> values = checked_priorities(priorities);
            released([&] { buffer.update_priorities(slots, values); });
          },
          py::arg("indexes"), py::arg("priorities"), "Set the priorities of the rows in the given slots.")
      .def(
          "_weights",
          [](const PythonReplayBuffer& buffer, const py::object& indexes) {
            const std::vector<std::int64_t> slots = checked_slots(indexes);
            Priorities weights(static_cast<py::ssize_t>(slots.size()));
            const std::span<double> out(weights.mutable_data(), slots.size());
            released([&] { buffer.priority_weights(slots, out); });
            return weights;
          },
          py::arg("indexes"), "priority^alpha of the rows in the given slots.")
      .def("clear", &PythonReplayBuffer::clear, py::call_guard<Released>(), "Forget every row.")
      .def("__len__", &PythonReplayBuffer::size, py::call_guard<Released>())
      .def_property_readonly(
          "row_count", [](const PythonReplayBuffer& buffer) { return released([&] { return buffer.row_count(); }); },
          "Number of the next row: rows ever added, and slots that clear() skipped.")
      .def_property_readonly(
          "capacity", [](const PythonReplayBuffer& buffer) { return buffer.settings().capacity; },
          "The most rows there can be.")
      .def_property(
          "draw_count", [](const PythonReplayBuffer& buffer) { return released([&] { return buffer.draw_count(); }); },
          [](PythonReplayBuffer& buffer, Whole<"draw_count"> count) {
            released([&] { buffer.set_draw_count(count); });
          },
          "Draws made so far, which is the number of the next one.")
      .def_property(
          "beta", &PythonReplayBuffer::beta,
          [](PythonReplayBuffer& buffer, Real<"beta"> beta) { buffer.set_beta(beta); },
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
            return std::vector<std::size_t>{
                0, layout.rows, layout.weights, layout.entries, layout.environments, layout.checks};
          },
          "Where state, rows, weights, entries and environments begin in memory, and where they end.")
      .def_property_readonly(
          "_memory", [](const PythonReplayBuffer& buffer) { return buffer.view(); }, "All of the buffer's memory.")
      .def(
          "_used_extents",
          [](const PythonReplayBuffer& buffer) {
            std::vector<std::pair<std::size_t, std::size_t>> extents;
            for (const auto& [begin, size] : buffer.used_extents()) extents.emplace_back(begin, size);
            return extents;
          },
          "Begin and size of what is in use of state, rows, weights, entries and environments.")
      .def("_restore", &PythonReplayBuffer::restore, py::arg("version") = ReplayBuffer::kVersion,
           py::call_guard<Released>(), "Take over what was put into memory, of a file of that version.")
      .def(
          "_reading",
          [](PythonReplayBuffer& buffer, const py::typing::Callable<void()>& work) {
            released([&] { buffer.lock_shared(); });
            auto unlock = [](PythonReplayBuffer* locked) { locked->unlock_shared(); };
            const std::unique_ptr<PythonReplayBuffer, decltype(unlock)> reading(&buffer, unlock);
            call_python(work);
          },
          py::arg("work"), "Call work() with changes kept out.")
      .def_property_readonly(
          "break_count",
          [](const PythonReplayBuffer& buffer) { return released([&] { return buffer.break_count(); }); },
          "With n_step > 1: rows added that end nothing, though the row after them does not begin where they led to.")
      .def("_close", &PythonReplayBuffer::give_up, py::arg("reason"), "Give the memory up.");
}

}  // namespace trajmill
