#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <tuple>

#include "batches.hpp"
#include "trajmill/mixed_replay.hpp"

namespace py = pybind11;

namespace trajmill {
namespace {

py::dict as_dict(const std::string& who, const py::object& rows) {
  if (!py::isinstance<py::dict>(rows)) {
    throw py::type_error(message(who, " must return a dict of arrays, got ", text_of(py::type::of(rows))));
  }
  return py::reinterpret_borrow<py::dict>(rows);
}

// Copies what Python made for a column to its place in a batch.
void copy_rows(const std::string& who, const py::object& value, const Column& column, std::size_t row_count,
               std::byte* target) {
  const std::string what = message(who, ": column '", column.name, "'");
  const Pinned array(converted(value, column, [&] { return what; }));
  const std::vector<py::ssize_t> wanted = batch_shape(column, row_count);
  const std::span<const py::ssize_t> shape(array.array().shape(), static_cast<std::size_t>(array.array().ndim()));
  if (!std::ranges::equal(wanted, shape)) {
    throw std::invalid_argument(message(what, " needs shape ", text_of(py::tuple(py::cast(wanted))), ", got ",
                                        text_of(array.array().attr("shape"))));
  }
  if (!holds_rows(array.array(), column)) throw std::invalid_argument(message(what, " was changed meanwhile"));
  std::memcpy(target, array.data(), row_count * column.byte_count());
}

// Rows that a Python function makes: function(row_count) -> dict of arrays.
class CallableSource final : public BatchSource {
 public:
  CallableSource(const std::string& name, py::handle function, std::vector<Column> columns)
      : name_(message("source '", name, "'")), function_(function), columns_(std::move(columns)) {
    require_sizes(columns_);
  }

  [[nodiscard]] const std::vector<Column>& batch_columns() const noexcept override { return columns_; }

  void sample(std::size_t batch_size, std::span<std::byte* const> columns, std::size_t) override {
    with_python([&] {
      const py::dict rows = as_dict(name_, call_python(function_, batch_size));
      for (std::size_t c = 0; c < columns_.size(); ++c) {
        const py::str key(columns_[c].name);
        if (!rows.contains(key)) throw std::invalid_argument(message(name_, " must give '", columns_[c].name, "'"));
        copy_rows(name_, rows[key], columns_[c], batch_size, columns[c]);
      }
    });
  }

 private:
  std::string name_;
  py::handle function_;  // kept by the Python object
  std::vector<Column> columns_;
};

// Functions are kept by the Python object of the mixture.
Weight weight_of(const std::string& name, const py::handle& weight) {
  if (py::isinstance<LinearWeight>(weight)) return weight.cast<LinearWeight>();
  return [name, weight](std::uint64_t draw) {
    return with_python([&] {
      const py::object value = call_python(weight, draw);
      try {
        return value.cast<double>();
      } catch (const py::cast_error&) {
        throw py::type_error(message("the weight of source '", name, "' must be a number, got ",
                                     py::repr(value).cast<std::string>(), " at draw ", draw));
      }
    });
  };
}

// The function sees copies of the rows, so nothing it does or keeps reaches a buffer or a batch but what it returns.
Transform transform_of(const std::string& name, const py::handle& function, const std::vector<Column>& columns) {
  if (function.is_none()) return {};
  return [who = message("the transform of '", name, "'"), columns, function](std::size_t row_count,
                                                                             std::span<std::byte* const> targets) {
    with_python([&] {
      py::dict rows;
      for (std::size_t c = 0; c < columns.size(); ++c) {
        rows[py::str(columns[c].name)] =
            py::array(dtype_of(columns[c].type), batch_shape(columns[c], row_count), targets[c]);
      }
      const py::dict made = call_python(as_dict(who, call_python(function, rows)).attr("copy"));  // nobody else has it
      for (const auto& [key, value] : made) {
        const auto column = std::ranges::find(columns, text_of(key), &Column::name);
        if (column == columns.end()) {
          throw std::invalid_argument(message(who, " returned '", text_of(key), "', which the batch does not have"));
        }
        copy_rows(who, py::reinterpret_borrow<py::object>(value), *column, row_count,
                  targets[static_cast<std::size_t>(column - columns.begin())]);
      }
    });
  };
}

// Name, source, weight (a LinearWeight or a function of the draw), transform or None.
using NamedSources = py::typing::Tuple<py::typing::Tuple<py::str, BatchSource, py::object, py::object>, py::ellipsis>;
// Name, row shape, dtype, a row for sources that lack the column or None.
using NamedColumn = std::tuple<std::string, std::vector<std::size_t>, py::dtype, std::optional<py::array>>;

std::vector<std::byte> fill_of(const Column& column, const std::optional<py::array>& row) {
  if (!row) return {};
  std::vector<std::byte> bytes(column.byte_count());
  const std::string what = message("the fill of '", column.name, "'");
  const Pinned array(converted(*row, column, [&] { return what; }));
  if (static_cast<std::size_t>(array.array().nbytes()) != bytes.size()) {
    throw std::invalid_argument(message(what, " must be one row of it"));
  }
  std::memcpy(bytes.data(), array.data(), bytes.size());
  return bytes;
}

std::unique_ptr<MixedReplay> make_mixture(const NamedSources& named, const std::vector<NamedColumn>& described) {
  std::vector<MixedColumn> mixed;
  std::vector<Column> columns;
  for (const auto& [name, shape, dtype, fill] : described) {
    columns.push_back(column_of(name, shape, dtype));
    require_sizes({&columns.back(), 1});
    mixed.push_back({columns.back(), fill_of(columns.back(), fill)});
  }
  std::vector<MixedSource> sources;
  for (const py::handle& item : named) {
    if (!py::isinstance<py::tuple>(item)) throw py::type_error("sources must be tuples, which keep what is in them");
    const auto [name, source, weight, transform] =
        item.cast<std::tuple<std::string, BatchSource*, py::object, py::object>>();
    if (source == nullptr) throw py::type_error(message("source '", name, "' must be compiled, got None"));
    sources.push_back({name, source, weight_of(name, weight), transform_of(name, transform, columns)});
  }
  return std::make_unique<MixedReplay>(std::move(sources), mixed);
}

}  // namespace

void bind_mixed_replay(py::module_& module) {
  py::class_<LinearWeight>(module, "LinearWeight", "A weight that goes from one value to another in a straight line.")
      .def(py::init<double, double, std::uint64_t>(), py::arg("start"), py::arg("end"), py::arg("step_count"))
      .def("__call__", &LinearWeight::operator(), py::arg("draw"))
      .def("__reduce__", [](const py::object& self) {
        const auto& weight = self.cast<const LinearWeight&>();
        return py::make_tuple(py::type::of(self), py::make_tuple(weight.start, weight.end, weight.step_count));
      });

  py::class_<CallableSource, BatchSource>(module, "CallableSource", "Rows that a Python function makes.")
      .def(py::init([](const std::string& name,
                       const py::typing::Callable<py::typing::Dict<py::str, py::object>(py::int_)>& function,
                       const std::vector<std::tuple<std::string, std::vector<std::size_t>, py::dtype>>& columns) {
             std::vector<Column> made;
             for (const auto& [column, shape, dtype] : columns) made.push_back(column_of(column, shape, dtype));
             return std::make_unique<CallableSource>(name, function, std::move(made));
           }),
           py::arg("name"), py::arg("function"), py::arg("columns"), py::keep_alive<1, 3>(),
           "function(row_count) must return a dict of arrays with these columns: (name, row shape, dtype).");

  py::class_<Shares>(module, "Shares",
                     "How many rows of each batch every source gets; what is rounded is carried over.")
      .def(py::init<std::size_t>(), py::arg("source_count"))
      .def(
          "split",
          [](Shares& shares, std::size_t batch_size, const std::vector<double>& weights) {
            std::vector<std::size_t> counts(weights.size());
            shares.split(batch_size, weights, counts);
            return counts;
          },
          py::arg("batch_size"), py::arg("weights"), "Rows of each source in the next batch, by relative weights.")
      .def_property("credit", &Shares::credit, &Shares::set_credit,
                    "Rows that each source was owed so far less those it got.");

  py::class_<MixedReplay, BatchSource>(module, "MixedReplay", "Batches whose rows come from several sources.")
      .def(py::init(&make_mixture), py::kw_only(), py::arg("sources"), py::arg("columns"), py::keep_alive<1, 2>(),
           "From tuples of (name, source, weight, transform) and of (name, row shape, dtype, fill).")
      .def_property(
          "state",
          [](const MixedReplay& mixture) {
            // without the GIL: a draw that is under way may be waiting for it
            const MixedReplay::State state = released([&] { return mixture.state(); });
            return py::typing::Tuple<py::int_, py::typing::List<py::float_>>(
                py::make_tuple(state.draw_count, py::cast(state.credit)));
          },
          [](MixedReplay& mixture, std::tuple<std::uint64_t, std::vector<double>> state) {
            released([&] { mixture.set_state({std::get<0>(state), std::move(std::get<1>(state))}); });
          },
          "Draws made so far, and for each source the rows it was owed less those it got.");
}

}  // namespace trajmill
