#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <array>

#include "batches.hpp"

namespace py = pybind11;

namespace trajmill {
namespace {

// NumPy's kind of each data type; with the size it is the whole type.
struct TypeKind {
  DataType type;
  char kind;
};

constexpr std::array kTypeKinds = {
    TypeKind{DataType::boolean, 'b'}, TypeKind{DataType::u1, 'u'}, TypeKind{DataType::u2, 'u'},
    TypeKind{DataType::u4, 'u'},      TypeKind{DataType::u8, 'u'}, TypeKind{DataType::i1, 'i'},
    TypeKind{DataType::i2, 'i'},      TypeKind{DataType::i4, 'i'}, TypeKind{DataType::i8, 'i'},
    TypeKind{DataType::f2, 'f'},      TypeKind{DataType::f4, 'f'}, TypeKind{DataType::f8, 'f'}};

bool is(const py::dtype& dtype, const TypeKind& candidate) {
  return dtype.kind() == candidate.kind && static_cast<std::size_t>(dtype.itemsize()) == size_of(candidate.type) &&
         dtype.byteorder() != '>';
}

std::string text_of(const py::handle& object) { return py::str(object).cast<std::string>(); }

std::vector<py::ssize_t> batch_shape(const Column& column, std::size_t batch_size) {
  std::vector<py::ssize_t> shape{static_cast<py::ssize_t>(batch_size)};
  shape.insert(shape.end(), column.shape.begin(), column.shape.end());
  return shape;
}

bool fits(const py::array& array, const Column& column, std::size_t batch_size) {
  if (static_cast<std::size_t>(array.ndim()) != column.shape.size() + 1) return false;
  if (static_cast<std::size_t>(array.shape(0)) != batch_size) return false;
  for (std::size_t axis = 0; axis < column.shape.size(); ++axis) {
    if (static_cast<std::size_t>(array.shape(static_cast<py::ssize_t>(axis) + 1)) != column.shape[axis]) return false;
  }
  return (array.flags() & py::array::c_style) != 0 && array.writeable() &&
         is(array.dtype(), kTypeKinds[static_cast<std::size_t>(column.type)]);
}

}  // namespace

Column column_of(const std::string& name, const std::vector<std::size_t>& shape, const py::dtype& dtype) {
  for (const TypeKind& candidate : kTypeKinds) {
    if (is(dtype, candidate)) return {name, candidate.type, shape};
  }
  throw py::type_error(message("column '", name, "' needs a bool, integer or float dtype of the machine's byte order, ",
                               "got ", text_of(dtype)));
}

py::dtype dtype_of(DataType type) {
  const char kind = kTypeKinds[static_cast<std::size_t>(type)].kind;
  return type == DataType::boolean ? py::dtype::of<bool>() : py::dtype(message(std::string(1, kind), size_of(type)));
}

py::dict batch_for(const std::vector<Column>& columns, std::size_t batch_size, const py::object& out,
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
  auto batch = py::reinterpret_borrow<py::dict>(out);
  for (const Column& column : columns) {
    const py::str key(column.name);
    if (!batch.contains(key)) throw std::invalid_argument(message("out lacks the column '", column.name, "'"));
    const py::object value = batch[key];
    if (!py::isinstance<py::array>(value) || !fits(py::reinterpret_borrow<py::array>(value), column, batch_size)) {
      throw std::invalid_argument(message("out['", column.name, "'] must be a writeable C-contiguous array ",
                                          text_of(py::cast(batch_shape(column, batch_size))), " of ",
                                          text_of(dtype_of(column.type))));
    }
    pointers.push_back(static_cast<std::byte*>(py::reinterpret_borrow<py::array>(value).mutable_data()));
  }
  return batch;
}

void bind_batch_source(py::module_& module) {
  py::class_<BatchSource>(module, "BatchSource", "What batches are drawn from.")
      .def_property_readonly(
          "batch_columns",
          [](const BatchSource& source) {
            py::typing::List<py::typing::Tuple<py::str, py::typing::Tuple<py::int_, py::ellipsis>, py::dtype>> columns;
            for (const Column& column : source.batch_columns()) {
              columns.append(py::make_tuple(column.name, py::tuple(py::cast(column.shape)), dtype_of(column.type)));
            }
            return columns;
          },
          "Name, row shape and dtype of each column of a batch.")
      .def(
          "sample",
          [](BatchSource& source, std::size_t batch_size, const py::object& out, std::size_t threads) {
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
