#include <pybind11/gil_safe_call_once.h>
#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <array>

#include "batches.hpp"

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

py::dict batch_for(std::span<const Column> columns, std::size_t batch_size, const py::object& out,
                   std::vector<std::byte*>& pointers) {
  pointers.clear();
  if (out.is_none()) {
    py::dict batch;
    for (const Column& column : columns) {
      py::array array(dtype_of(column.type), batch_shape(column, batch_size));
      pointers.push_back(static_cast<std::byte*>(array.mutable_data()));
      batch[py::str(column.name)] = std::move(array);
    }
    return batch;
  }
  if (!py::isinstance<py::dict>(out)) {
    throw py::type_error(message("out must be a batch, a dict of arrays, got ", text_of(py::type::of(out))));
  }
  for (const Column& column : columns) {
    PyObject* const value = PyDict_GetItemString(out.ptr(), column.name.c_str());  // borrowed
    if (value == nullptr) throw std::invalid_argument(message("out lacks the column '", column.name, "'"));
    if (!fits(value, column, batch_size)) {
      throw std::invalid_argument(message("out['", column.name, "'] must be a writeable C-contiguous array ",
                                          text_of(py::tuple(py::cast(batch_shape(column, batch_size)))), " of ",
                                          text_of(dtype_of(column.type))));
    }
    pointers.push_back(reinterpret_cast<std::byte*>(py::detail::array_proxy(value)->data));
  }
  return py::reinterpret_borrow<py::dict>(out);
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
  py::class_<BatchSource>(module, "BatchSource", "What batches are drawn from.")
      .def_property_readonly(
          "batch_columns", [](const BatchSource& source) -> Columns { return describe(source.batch_columns()); },
          "Name, row shape and dtype of each column of a batch.")
      .def(
          "sample",
          [](BatchSource& source, std::size_t batch_size, const py::object& out, std::size_t threads) {
            require_draw(batch_size, threads);
            std::vector<std::byte*> pointers;
            py::typing::Dict<py::str, py::array> batch = batch_for(source.batch_columns(), batch_size, out, pointers);
            {
              const py::gil_scoped_release nogil;
              source.sample(batch_size, pointers, threads);
            }
            return batch;
          },
          py::arg("batch_size"), py::arg("out") = py::none(), py::arg("threads") = 1,
          "The next draw as a dict of arrays; `out`, one that an earlier call gave, is filled and returned.");
}

}  // namespace trajmill
