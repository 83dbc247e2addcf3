#include <pybind11/gil_safe_call_once.h>
#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string_view>
#include <type_traits>
#include <utility>

#include "batches.hpp"
#include "named_values.hpp"

namespace py = pybind11;

namespace trajmill {
namespace {

// NumPy's name of each data type, at the type's number.
constexpr std::array kTypeNames = {"?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"};

using DataTypes = std::array<py::dtype, kTypeNames.size()>;

const DataTypes& data_types() {
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<DataTypes> storage;
  return storage
      .call_once_and_store_result([] {
        DataTypes types;
        for (std::size_t i = 0; i < types.size(); ++i) types[i] = py::dtype(std::string(kTypeNames[i]));
        return types;
      })
      .get_stored();
}

bool fits(const py::handle& value, const Column& column, std::size_t batch_size) {
  if (!py::isinstance<py::array>(value)) return false;
  const auto array = py::reinterpret_borrow<py::array>(value);
  return array.writeable() && static_cast<std::size_t>(array.ndim()) == column.shape.size() + 1 &&
         static_cast<std::size_t>(array.shape(0)) == batch_size && holds_rows(array, column);
}

// What holds every whole number of an array.
DataType widest(const py::array& numbers) {
  const char kind = numbers.dtype().kind();
  return kind == 'f' ? DataType::f8 : kind == 'i' ? DataType::i8 : DataType::u8;
}

template <class From, class To>
bool holds(From from, To to) {
  if constexpr (std::is_floating_point_v<To>) {
    constexpr auto kEnd = static_cast<To>(std::numeric_limits<From>::max() / 2 + 1) * 2;  // the first that is too large
    return to >= static_cast<To>(std::numeric_limits<From>::min()) && to < kEnd && static_cast<From>(to) == from;
  } else {
    return std::cmp_equal(from, to);
  }
}

template <class From, class To>
bool are_equal(const py::array& from, const py::array& to) {
  const auto* const before = static_cast<const From*>(from.data());
  const auto* const after = static_cast<const To*>(to.data());
  for (py::ssize_t i = 0; i < from.size(); ++i) {
    if (!holds(before[i], after[i])) return false;
  }
  return true;
}

template <class From>
bool are_equal(const py::array& from, const py::array& to) {
  switch (widest(to)) {
    case DataType::f8: return are_equal<From, double>(from, to);
    case DataType::i8: return are_equal<From, std::int64_t>(from, to);
    default: return are_equal<From, std::uint64_t>(from, to);
  }
}

// Whether whole numbers, of the widest type of their kind, are equal to others.
bool are_equal(const py::array& from, const py::array& to) {
  return widest(from) == DataType::i8 ? are_equal<std::int64_t>(from, to) : are_equal<std::uint64_t>(from, to);
}

// Whether finite numbers become infinite as floats of `type`: those from half a step above its largest number on.
template <class Number>
bool overflow(const py::array& numbers, DataType type) {
  const auto end = static_cast<Number>(type == DataType::f2   ? 65520.0L
                                       : type == DataType::f4 ? 0x1.ffffffp127L
                                                              : 0x1.fffffffffffff8p1023L);
  const std::span values(static_cast<const Number*>(numbers.data()), static_cast<std::size_t>(numbers.size()));
  return std::ranges::any_of(values, [end](Number value) { return std::isfinite(value) && std::abs(value) >= end; });
}

}  // namespace

Column column_of(const std::string& name, const std::vector<std::size_t>& shape, const py::dtype& dtype) {
  const DataTypes& types = data_types();
  for (std::size_t i = 0; i < types.size(); ++i) {
    if (types[i].equal(dtype)) return {name, static_cast<DataType>(i), shape};
  }
  throw py::type_error(message("column '", name, "' needs a bool, integer or float dtype of the machine's byte order, ",
                               "got ", text_of(dtype)));
}

std::vector<py::ssize_t> batch_shape(const Column& column, std::size_t batch_size) {
  std::vector<py::ssize_t> shape{static_cast<py::ssize_t>(batch_size)};
  shape.insert(shape.end(), column.shape.begin(), column.shape.end());
  return shape;
}

const py::dtype& dtype_of(DataType type) { return data_types()[static_cast<std::size_t>(type)]; }

bool holds_rows(const py::array& array, const Column& column) {
  constexpr int kWanted = int{py::array::c_style} | int{py::detail::npy_api::NPY_ARRAY_ALIGNED_};
  if ((array.flags() & kWanted) != kWanted) return false;
  const std::size_t row_axes = column.shape.size(), axes = static_cast<std::size_t>(array.ndim());
  if (axes < row_axes) return false;
  for (std::size_t axis = 0; axis < row_axes; ++axis) {
    if (static_cast<std::size_t>(array.shape()[axes - row_axes + axis]) != column.shape[axis]) return false;
  }
  const py::dtype& wanted = dtype_of(column.type);
  return array.dtype().is(wanted) || wanted.equal(array.dtype());
}

Batch batch_for(std::span<const Column> columns, std::size_t batch_size, const py::object& out) {
  Batch batch;
  require_sizes(columns);
  if (out.is_none()) {
    for (const Column& column : columns) {
      py::array array(dtype_of(column.type), batch_shape(column, batch_size));
      batch.pointers.push_back(static_cast<std::byte*>(array.mutable_data()));
      batch.arrays[py::str(column.name)] = std::move(array);
    }
    return batch;
  }
  if (!py::isinstance<py::dict>(out)) {
    throw py::type_error(message("out must be a batch, a dict of arrays, got ", text_of(py::type::of(out))));
  }
  batch.arrays = py::reinterpret_borrow<py::dict>(out);
  std::vector<std::pair<std::byte*, std::size_t>> extents;
  Py_ssize_t place = 0;
  for (const Column& column : columns) {
    PyObject* const found = find_item(out, column.name, place);
    if (found == nullptr) throw std::invalid_argument(message("out lacks the column '", column.name, "'"));
    const auto value = py::reinterpret_borrow<py::object>(found);
    const auto refuse = [&] {
      throw std::invalid_argument(message("out['", column.name, "'] must be a writeable C-contiguous array ",
                                          text_of(py::tuple(py::cast(batch_shape(column, batch_size)))), " of ",
                                          text_of(dtype_of(column.type))));
    };
    if (!py::isinstance<py::array>(value)) refuse();
    batch.pins.emplace_back(py::reinterpret_borrow<py::array>(value));
    if (!fits(value, column, batch_size)) refuse();
    batch.pointers.push_back(batch.pins.back().data());
    extents.emplace_back(batch.pointers.back(), batch_size * column.byte_count());
  }
  std::ranges::sort(extents);
  for (std::size_t i = 1; i < extents.size(); ++i) {
    if (extents[i - 1].first + extents[i - 1].second <= extents[i].first) continue;
    throw std::invalid_argument("the arrays of out must not share memory: give every column one of its own");
  }
  return batch;
}

py::array as_array(const py::object& value, const std::string& what) {
  if (py::isinstance<py::array>(value)) return py::reinterpret_borrow<py::array>(value);
  try {
    return py::reinterpret_borrow<py::array>(call_python(py::module_::import("numpy").attr("asarray"), value));
  } catch (const py::error_already_set& error) {
    throw py::type_error(
        message(what, " must be an array, got ", text_of(py::type::of(value)), ": ", text_of(error.value())));
  }
}

bool is_named(const py::handle& key, std::string_view name) noexcept {
  if (!PyUnicode_CheckExact(key.ptr())) return false;
  Py_ssize_t size = 0;
  const char* const text = PyUnicode_AsUTF8AndSize(key.ptr(), &size);
  if (text == nullptr) PyErr_Clear();  // half of a surrogate pair
  return text != nullptr && name == std::string_view(text, static_cast<std::size_t>(size));
}

PyObject* find_item(const py::handle& dict, const std::string& name, Py_ssize_t& place) {
  PyObject *key = nullptr, *value = nullptr;
  if (PyDict_Next(dict.ptr(), &place, &key, &value) != 0 && is_named(key, name)) return value;
  return PyDict_GetItemString(dict.ptr(), name.c_str());
}

py::array converted(const py::object& value, const Column& column, const std::function<std::string()>& what) {
  const py::array array =
      py::isinstance<py::array>(value) ? py::reinterpret_borrow<py::array>(value) : as_array(value, what());
  const auto& numpy = py::detail::npy_api::get();
  if (Py_TYPE(array.ptr()) != numpy.PyArray_Type_ &&
      call_python(py::module_::import("numpy.ma").attr("is_masked"), array).cast<bool>()) {
    throw py::type_error(message(what(), " has masked values, which a column cannot hold; fill them first"));
  }
  if (holds_rows(array, column)) return array;
  const py::dtype& wanted = dtype_of(column.type);
  const auto refuse = [&] {
    throw py::type_error(message(what(), " needs ", text_of(wanted), ", got ", text_of(array.dtype()),
                                 " that cannot be converted without loss"));
  };
  const char to = wanted.kind(), from = array.dtype().kind();
  const bool is_whole = from == 'i' || from == 'u' || from == 'b';
  if (!is_whole && (from != 'f' || to != 'f')) refuse();
  const auto cast_to = [&](const py::array& numbers, const py::dtype& type) {
    constexpr int kFlags =
        int{py::array::c_style} | int{py::array::forcecast} | int{py::detail::npy_api::NPY_ARRAY_ALIGNED_};
    PyObject* const made =
        numpy.PyArray_FromAny_(numbers.ptr(), py::dtype(type).release().ptr(), 0, 0, kFlags, nullptr);
    if (made == nullptr) throw py::error_already_set();
    return py::reinterpret_steal<py::array>(made);
  };
  if (to == 'f' && (is_whole || array.itemsize() > wanted.itemsize())) {  // before NumPy would warn of it
    const bool is_long = array.itemsize() > py::ssize_t{sizeof(double)};
    if (is_long ? overflow<long double>(cast_to(array, py::dtype("g")), column.type)
                : overflow<double>(cast_to(array, dtype_of(DataType::f8)), column.type)) {
      refuse();
    }
  }
  py::array cast = cast_to(array, wanted);
  if (is_whole) {
    const auto wide = [&](const py::array& numbers) { return cast_to(numbers, dtype_of(widest(numbers))); };
    if (!are_equal(wide(array), wide(cast))) refuse();
  }
  return cast;
}

void join_workers(BatchSource& source) {
  if (!source.is_new_here()) return;
  const py::dict modules = py::module_::import("sys").attr("modules");
  if (source.is_shared() || !modules.contains("torch.utils.data")) return;
  const py::object worker = call_python(modules["torch.utils.data"].attr("get_worker_info"));
  if (worker.is_none()) return;
  source.share(worker.attr("id").cast<std::size_t>(), worker.attr("num_workers").cast<std::size_t>());
}

py::list describe(std::span<const Column> columns) {
  py::list described;
  for (const Column& column : columns) {
    described.append(py::make_tuple(column.name, py::tuple(py::cast(column.shape)), dtype_of(column.type)));
  }
  return described;
}

void bind_batch_source(py::module_& module) {
  using Columns = py::typing::List<py::typing::Tuple<py::str, py::typing::Tuple<py::int_, py::ellipsis>, py::dtype>>;
  py::class_<BatchSource>(module, "BatchSource", kCollected, "What batches are drawn from.")
      .def_property_readonly(
          "batch_columns", [](const BatchSource& source) -> Columns { return describe(source.batch_columns()); },
          "Name, row shape and dtype of each column of a batch.")
      .def(
          "sample",
          [](BatchSource& source, Whole<"batch_size"> batch_size, const py::object& out,
             Whole<"threads"> threads) -> py::typing::Dict<py::str, py::array> {
            require_draw(batch_size, threads);
            join_workers(source);
            const Batch batch = batch_for(source.batch_columns(), batch_size, out);
            released([&] { source.draw(batch_size, batch.pointers, threads); });
            return batch.arrays;
          },
          py::arg("batch_size"), py::arg("out") = py::none(), py::arg("threads") = 1,
          "The next draw as a dict of arrays; `out`, one that an earlier call gave, is filled and returned.")
      .def(
          "share",
          [](BatchSource& source, Whole<"worker"> worker, Whole<"worker_count"> worker_count) {
            released([&] { source.share(worker, worker_count); });
          },
          py::arg("worker"), py::arg("worker_count"),
          "From now on make the draws of worker `worker` of `worker_count`: of those to come number `worker`, and then "
          "every worker_count-th. In the workers of a torch DataLoader this is done at the first draw.");
}

}  // namespace trajmill
